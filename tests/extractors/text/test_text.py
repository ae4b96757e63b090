"""Text extractor: layers, order, batches, truncation, recipe, and the pinned MiniLM."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel, BertTokenizer

from extractors.config import TextConfig
from extractors.packaged import MINILM, check_sha256
from extractors.text.extractor import TextEncoder, TextExtractor

LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{x}" for x in LETTERS), "dog", "dogs", "two"]
TEXTS = ["two dogs", "", "a dog and two dogs run by the lake", "dog", "x y z", "two dogs and a dog see dogs"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of four layers with random weights, as save_pretrained writes it."""
    path = tmp_path_factory.mktemp("bert")
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64
    )
    BertModel(config).save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, model_max_length=512).save_pretrained(path)
    return path


@pytest.mark.parametrize("layer", [-1, -2, 0, 1, 4, "mean-last-4"])
def test_text_extractor_layer_equals_the_hidden_state_of_the_complete_model(folder: Path, layer: int | str) -> None:
    extractor = TextExtractor(TextConfig(model=str(folder), layer=layer))
    whole = BertModel.from_pretrained(folder).eval()
    for text, tokens in zip(TEXTS, extractor(TEXTS), strict=True):
        words = re.findall(r"\w+", text)
        pieces = [p for w in words for p in ([w] if w in WORDS else [w[0], *(f"##{x}" for x in w[1:])])]
        ids = [WORDS.index(p) for p in ["[CLS]", *pieces, "[SEP]"]]
        with torch.inference_mode():
            states = whole(torch.tensor([ids]), output_hidden_states=True).hidden_states
        assert tokens.token_ids.tolist() == ids
        mean = (states[1] + states[2] + states[3] + states[4]) / 4  # the model has four layers
        expected = mean if layer == "mean-last-4" else states[layer]
        np.testing.assert_allclose(tokens.features, expected[0].numpy(), atol=2e-3)
    assert tokens.features.dtype == np.float16
    assert tokens.token_ids.dtype == np.int32
    assert extractor.dim == tokens.features.shape[1] == 32


def test_text_extractor_keeps_only_the_layers_it_needs(folder: Path) -> None:
    def count(layer: int) -> int:
        return len(TextExtractor(TextConfig(model=str(folder), layer=layer))._model.encoder.layer)

    assert [count(layer) for layer in (-1, -2, 1, 0)] == [4, 3, 1, 0]


@pytest.mark.parametrize("layer", [-1, "mean-last-4"])
def test_text_extractor_features_do_not_depend_on_the_batch(folder: Path, layer: int | str) -> None:
    extractor = TextExtractor(TextConfig(model=str(folder), layer=layer))
    texts = [*TEXTS, *(f"two dogs {letter}" for letter in LETTERS)]
    together = extractor(texts[::-1])[::-1]
    for text, other in zip(texts, together, strict=True):
        one = extractor([text])[0]
        np.testing.assert_array_equal(one.token_ids, other.token_ids)
        np.testing.assert_array_equal(one.features, other.features, err_msg=text)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_text_extractor_features_are_close_for_every_batch_size(folder: Path, batch_size: int) -> None:
    one, other = (TextExtractor(TextConfig(model=str(folder), batch_size=size)) for size in (None, batch_size))
    for a, b in zip(one(TEXTS), other(TEXTS), strict=True):
        np.testing.assert_allclose(a.features, b.features, atol=1e-3)
    assert (one.recipe == other.recipe) == (batch_size == 4)


@pytest.mark.parametrize("marker", ["[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]"])
def test_text_extractor_reads_the_name_of_a_special_token_as_plain_text(folder: Path, marker: str) -> None:
    extractor = TextExtractor(TextConfig(model=str(folder)))
    special = {WORDS.index(name) for name in WORDS[:5]}
    (tokens,) = extractor([f"dog x{marker.lower().strip('[]')} {marker}{marker} dogs"])
    inside = tokens.token_ids[1:-1].tolist()
    # This vocabulary has no brackets, so each of them is an unknown word; the letters are known.
    letters = [WORDS.index(piece) for piece in (marker[1].lower(), *(f"##{x}" for x in marker[2:-1].lower()))]
    unknown = WORDS.index("[UNK]")
    assert special & set(inside) == {unknown}
    assert inside[-2 * len(letters) - 5 : -1] == 2 * [unknown, *letters, unknown]


def test_text_extractor_in_bfloat16_is_close_and_has_its_own_recipe(folder: Path) -> None:
    exact, quick = (TextExtractor(TextConfig(model=str(folder), dtype=d)) for d in ("float32", "bfloat16"))
    for one, other in zip(exact(TEXTS), quick(TEXTS), strict=True):
        assert other.features.dtype == np.float16
        np.testing.assert_allclose(one.features, other.features, atol=0.06)
    assert exact.recipe != quick.recipe


def test_text_extractor_truncates_long_captions(folder: Path) -> None:
    extractor = TextExtractor(TextConfig(model=str(folder), max_tokens=6))
    exact, cut, short = extractor(["dog dog dog dog", "dog dog dog dog two", "dog"])
    assert exact.token_ids.tolist() == cut.token_ids.tolist()  # [CLS], four words, [SEP]
    assert len(short.token_ids) == 3
    assert extractor([]) == []


ALPHABETS = [
    *("dogs two a b xyz", "[UNK] [SEP] [MASK]", "\u00e9\u00df\u01c4\u0130.,!?", "e\u0301o\u0308\u4e2d"),
    *(
        "\u4e2d\u6587\u6c49\u5b57",
        "\u0645\u0631\u062d\u0628\u0627",
        "\u0928\u092e\u0938\u094d\u0924\u0947",
    ),  # Chinese, Arabic, Hindi
    *("\U0001f600\u200d\U0001f469\ufe0f", "\u200f\u202e\u200b\0\t\n"),
]


@pytest.mark.parametrize("limit", [3, 6, 40])
def test_text_extractor_truncates_like_transformers_and_counts_all_tokens(folder: Path, limit: int, capfd) -> None:
    extractor, rng = TextExtractor(TextConfig(model=str(folder), max_tokens=limit)), np.random.default_rng(limit)
    texts = ["dog " * 600, "", *ALPHABETS]
    for _ in range(300):
        letters = "".join(ALPHABETS[i] + " " for i in rng.integers(0, len(ALPHABETS), 2))
        texts.append("".join(rng.choice(list(letters), int(rng.integers(0, 60)))))
    ids, whole = extractor._tokenize(texts)
    assert "longer than" not in capfd.readouterr().err, "a truncated caption must not cause a warning"
    theirs = BertTokenizer.from_pretrained(folder, split_special_tokens=True)
    assert ids == theirs(texts, truncation=True, max_length=limit, split_special_tokens=True)["input_ids"]
    complete = theirs(texts, truncation=False, split_special_tokens=True)["input_ids"]
    assert whole == [len(row) for row in complete]
    assert [tokens.full_length for tokens in extractor(texts[:2])] == [602, 2]


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("", ""),
        (" \t\n", ""),
        ("two\0 dogs", "two dogs"),  # BERT's own rule: NUL, U+FFFD and controls are dropped
        ("\u200f\u200b\u202e", ""),
        ("two\u202e dogs\u200d", "two dogs"),
        ("two \ud83d dogs", "two dogs"),  # half of a surrogate pair
        ("\udcff", ""),
        ("\ud83d\ude00", "\U0001f600"),  # both halves are the character
        ("caf\u00e9", "cafe\u0301"),
        ("\u4f60\u597d", "\u4f60 \u597d"),
        ("\u0645\u0631\u062d\u0628\u0627", "\u4e2d"),
        ("\u0928\u092e\u0938\u094d\u0924\u0947 dog", "\u4e2d dog"),
        ("\U0001f469\u200d\U0001f467 dog", "\u4e2d dog"),
        ("dog [SEP]", "dog [ sep ]"),
        ("[CLS][PAD] [MASK]", "[ cls ] [ pad ] [ mask ]"),
    ],
)
def test_text_extractor_reads_text_of_any_script(folder: Path, text: str, same: str) -> None:
    extractor = TextExtractor(TextConfig(model=str(folder)))
    one, other = extractor([text, same])
    assert one.token_ids.tolist() == other.token_ids.tolist()
    assert (one.token_ids[0], one.token_ids[-1]) == (WORDS.index("[CLS]"), WORDS.index("[SEP]"))
    np.testing.assert_array_equal(one.features, other.features)
    assert np.isfinite(one.features).all()


def test_text_extractor_recipe_changes_with_everything_that_changes_the_features(folder: Path) -> None:
    def recipe(**settings) -> dict:
        return TextExtractor(TextConfig(model=str(folder), **settings)).recipe

    plain = recipe()
    assert plain == recipe(batch_size=4, layer=4)
    assert plain != recipe(batch_size=3), "the last bits depend on the shape of a batch"
    assert str(folder) not in str(plain)
    assert plain["weights_sha256"] != recipe(layer=2)["weights_sha256"]
    assert plain != recipe(max_tokens=9)
    assert plain != recipe(layer="mean-last-4")
    assert plain["weights_sha256"] == recipe(layer="mean-last-4")["weights_sha256"]


def test_several_layers_are_stored_side_by_side(folder: Path) -> None:
    texts = ["dog", "a dog runs"]
    extractor = TextExtractor(TextConfig(model=str(folder), layer=(0, 2, -1)))
    single = [TextExtractor(TextConfig(model=str(folder), layer=layer))(texts) for layer in (0, 2, 4)]
    assert extractor.dim == 3 * 32
    for number, tokens in enumerate(extractor(texts)):
        expected = np.concatenate([layer[number].features for layer in single], axis=1)
        np.testing.assert_allclose(tokens.features, expected, atol=1e-3)
    assert extractor.recipe["layer"] == [0, 2, 4]
    encoder, ids = TextEncoder(extractor.config, extractor), torch.tensor([extractor.tokenize(["a dog runs"])[0]])
    encoded = encoder(ids, torch.ones_like(ids, dtype=torch.bool)).detach().numpy()[0]
    np.testing.assert_allclose(encoded, extractor(texts)[1].features, atol=1e-2)


def test_layers_below_the_last_are_not_kept(folder: Path) -> None:
    assert TextExtractor(TextConfig(model=str(folder), layer=(0, 2)))._model.config.num_hidden_layers == 2
    with pytest.raises(ValueError, match="does not have the layer 9"):
        TextExtractor(TextConfig(model=str(folder), layer=(0, 9)))


def test_text_extractor_rejects_the_mean_of_four_layers_of_a_model_with_three(folder: Path, tmp_path: Path) -> None:
    config = BertModel.from_pretrained(folder).config
    config.num_hidden_layers = 3
    BertModel(config).save_pretrained(tmp_path)
    BertTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"needs 4 layers, but .* has 3. Set `text.layer` to a number"):
        TextExtractor(TextConfig(model=str(tmp_path), layer="mean-last-4"))


def test_text_extractor_recipe_ignores_a_missing_pooler_and_includes_tokenizer_rules(
    folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(4)
    BertForMaskedLM(BertModel.from_pretrained(folder).config).save_pretrained(tmp_path)
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, model_max_length=512).save_pretrained(tmp_path)
    config = TextConfig(model=str(tmp_path))
    first = TextExtractor(config).recipe
    assert first == TextExtractor(config).recipe
    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, do_lower_case=False).save_pretrained(tmp_path)
    assert TextExtractor(config).recipe["tokenizer_sha256"] != first["tokenizer_sha256"]
    with pytest.raises(ValueError, match="600 is more than the 512"):
        TextExtractor(config.model_copy(update={"max_tokens": 600}))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match="damaged"):
        TextExtractor(config)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"layer": 5}, ValueError, "hidden states -5 to 4"),
        ({"layer": -6}, ValueError, "hidden states -5 to 4"),
        ({"max_tokens": 600}, ValueError, "600 is more than the 512"),
        ({"model": "no/such/folder/at-all"}, FileNotFoundError, "no/such/folder/at-all"),
    ],
)
def test_text_extractor_rejects_invalid_settings(folder: Path, settings: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        TextExtractor(TextConfig(**{"model": str(folder), **settings}))


def test_check_sha256_rejects_other_bytes(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"abc")
    # The digest of "abc" is the first example of FIPS 180-2.
    check_sha256(file, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    with pytest.raises(ValueError, match=r"model\.safetensors has sha256 ba78"):
        check_sha256(file, "0" * 64)


@pytest.mark.skipif(importlib.util.find_spec(MINILM.package) is None, reason="the extra demo is not installed")
def test_minilm_captions_of_equal_meaning_are_similar() -> None:
    extractor = TextExtractor(TextConfig(model="minilm"))
    texts = ["two dogs run along the street", "a pair of dogs racing down a road", "interest rates fell in March"]
    means = np.stack([t.features.astype(np.float32).mean(0) for t in extractor(texts)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert extractor.dim == 384
    assert means[0] @ means[1] > 0.7
    assert means[0] @ means[2] < 0.3


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("two dogs", (0, 2)),
        ("dogs \U0001f984", (1, 2)),
        ("\U0001f984 \u16a0\u16a2", (2, 2)),
        ("\u200b\0\ufffd", (0, 0)),
    ],
)
def test_text_extractor_counts_unknown_tokens(folder: Path, text: str, counts: tuple[int, int]) -> None:
    extractor = TextExtractor(TextConfig(model=str(folder)))
    ids = extractor.tokenize([text])[0][1:-1]
    assert (ids.count(extractor.unknown_id), len(ids)) == counts
