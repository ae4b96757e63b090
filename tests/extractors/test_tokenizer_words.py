"""Words of a text in its tokens, of the two kinds of tokenizers that text models have."""

import pytest
import tokenizers
from tokenizers.models import BPE, WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel
from tokenizers.processors import TemplateProcessing

from extractors.torch_free import Tokenizer, Word

SPECIAL = [("[CLS]", 1), ("[SEP]", 2)]


def make_rules(model, pre_tokenizer):
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=SPECIAL)
    return tokenizer.to_str()


PIECES = make_rules(
    WordPiece({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "two": 3, "dog": 4, "##s": 5, ",": 6, "café": 7}, unk_token="[UNK]"),
    BertPreTokenizer(),
)
BYTES = make_rules(
    BPE({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, **{c: 3 + i for i, c in enumerate("Ġtwodgs,")}}, []),
    ByteLevel(add_prefix_space=False, trim_offsets=False),
)


@pytest.mark.parametrize(
    ("rules", "text", "words"),
    [
        (PIECES, "two dogs", [Word("two", 0, 3, (1,)), Word("dogs", 4, 8, (2, 3))]),
        (PIECES, "two, dogs", [Word("two", 0, 3, (1,)), Word("dogs", 5, 9, (3, 4))]),
        (PIECES, "café zebra", [Word("café", 0, 4, (1,)), Word("zebra", 5, 10, (2,))]),
        (PIECES, ", ,", []),
        (BYTES, "two dog", [Word("two", 0, 3, (1, 2, 3)), Word("dog", 4, 7, (4, 5, 6, 7))]),
    ],
)
def test_words_have_their_tokens_and_positions(rules, text, words):
    assert Tokenizer(rules, 32).find_words(text) == words


def test_truncated_words_are_left_out_and_tokens_are_those_of_the_ids():
    tokenizer = Tokenizer(PIECES, 5)
    words = tokenizer.find_words("two dogs two dogs")
    assert [word.tokens for word in words] == [(1,), (2, 3)]
    assert max(token for word in words for token in word.tokens) == len(tokenizer(["two dogs two dogs"])[0]) - 2
