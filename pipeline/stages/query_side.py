"""Export of the query side of a finished model, with which queries are answered without torch."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extractors.config import TextConfig
from extractors.torch_free import Tokenizer, find_text_folder, hash_tokenizer
from pipeline.stages.embed import load_trained_model
from tern.query import TOKENIZER, read_query_record

if TYPE_CHECKING:
    from extractors.text import TextExtractor

log = logging.getLogger(__name__)
TEXT_WEIGHTS = "model.safetensors"


def ensure_query_side(model: Path, text: TextConfig) -> None:
    """Write the query side of a finished model into its folder, unless it is there.

    Where it cannot be exported, the reason is logged; queries then need torch.

    Args:
        model: Folder of the model.
        text: Config that its tokens were extracted with.
    """
    try:
        if read_query_record(model) is not None:
            return
    except ValueError:  # of another version of this program
        pass
    from tern.model import MODEL_WEIGHTS  # lazy: torch takes seconds to import, and the query side is mostly there
    from tern.parallel import is_main_process  # lazy: torch takes seconds to import

    if not is_main_process():
        return
    try:
        write_query_side(model, load_trained_model(model, text), text, (MODEL_WEIGHTS,))
    except ValueError as error:
        log.warning(f"{model.name}: queries need torch, which takes seconds to import: {error}.")


def write_query_side(folder: Path, model: Any, text: TextConfig, weights: Sequence[str]) -> None:
    """Write the query side of a model into a folder.

    Args:
        folder: Folder of a model or of a model package.
        model: The model, with the weights that are in the folder.
        text: Config that its tokens were extracted with.
        weights: Names of the files of weights in the folder.

    Raises:
        ValueError: It cannot be exported.
    """
    from extractors.text import TextEncoder, TextExtractor  # lazy: as above
    from tern.model import TextModel, export_query_side  # lazy: torch takes seconds to import

    if text.dtype != "float32":
        raise ValueError(f"text.dtype is {text.dtype}, which ONNX Runtime does not compute in on a CPU")
    config = text.model_copy(update={"device": "cpu"})
    extractor = TextExtractor(config)
    folder_of_text = find_text_folder(config.model)
    if not (folder_of_text / TEXT_WEIGHTS).is_file():
        raise ValueError(f"{folder_of_text} keeps the weights of the text model in several files")
    rules = extractor.tokenizer_rules
    sha256 = hash_tokenizer(rules)
    described = TextModel(
        encoder=TextEncoder(config, extractor).eval(),
        name=config.model,
        folder=folder_of_text,
        weights=TEXT_WEIGHTS,
        tokenizer_rules=rules,
        tokenizer_sha256=sha256,
        has_tokenizer_file=_has_rules(folder_of_text / TOKENIZER, sha256),
        max_tokens=config.max_tokens,
        unknown_id=extractor.unknown_id,
        num_tokens=extractor.vocabulary_size,
    )
    _check_tokenizer(rules, extractor, config.max_tokens)
    export_query_side(folder, model, described, weights)


def _has_rules(path: Path, sha256: str) -> bool:
    try:
        return hash_tokenizer(path.read_text(encoding="utf-8")) == sha256
    except (OSError, ValueError):
        return False


def _check_tokenizer(rules: str, extractor: "TextExtractor", max_tokens: int) -> None:
    """Raise ValueError if the library tokenizers reads texts in another way than transformers."""
    texts = ["two dogs are running", "Ein Café [SEP] <mask> ", "", "x" * 300, "naïve 日本 \ud83d\ude00 1,000.5%"]
    expected = [tokens.token_ids.tolist() for tokens in extractor(texts)]
    if Tokenizer(rules, max_tokens)(texts) != expected:
        raise ValueError("the library tokenizers reads texts in another way than transformers")
