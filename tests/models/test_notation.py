"""The paper's notation: what it reads, what it writes, and where its errors point."""

import random

import pytest

from swwae_zoo.models._notation import Conv, Linear, NotationError, Pool, format, parse

PAPER = {
    "swwae_mnist": "(64)5c-2p-(64)3c-2p-(64)3c-2p-10fc",
    "swwae_svhn": "(128)5c-2p-(128)3c-(256)3c-2p-(256)3c-2p-10fc",
    "swwae_stl10": "(64)3c-4p-(64)3c-3p-(128)3c-(128)3c-2p-(256)3c-(256)3c-(256)3c-(512)3c-(512)3c-(512)3c-2p-10fc",
    "swwae_cifar_vgg": "(128)3c-(256)3c-2p-(256)3c-(512)3c-2p-(512)3c-(512)3c-2p-(512)3c-(512)3c-2p-128fc-10fc",
    "figure 2": "(16)5c-(32)3c-16p",
    "figure 3": "(32)5c-(32)3c-2p-(32)3c-16p",
}


def test_reads_each_kind_of_layer():
    assert parse("(64)5c-2p-128fc-10fc") == (Conv(64, 5), Pool(2), Linear(128), Linear(10))
    assert parse("(1)1c") == (Conv(maps=1, kernel=1),)


@pytest.mark.parametrize("text", PAPER.values(), ids=PAPER)
def test_the_papers_strings_round_trip(text):
    assert format(parse(text)) == text


@pytest.mark.parametrize("text", ["(64) 5c - 2p -10fc", " (64)5c-2p-10fc\n", "(64)5C-2P-10FC", "(064)5c-02p-10Fc"])
def test_tolerates_spaces_case_and_leading_zeros(text):
    assert format(parse(text)) == "(64)5c-2p-10fc"


@pytest.mark.parametrize("seed", range(50))
def test_random_layers_round_trip(seed):
    rng = random.Random(seed)
    layers = [Conv(rng.randint(1, 2048), rng.randrange(1, 12, 2))]
    for _ in range(rng.randint(0, 20)):
        conv, pool = Conv(rng.randint(1, 2048), rng.randrange(1, 12, 2)), Pool(rng.randint(2, 16))
        layers.append(rng.choice([conv, pool]))
    layers += [Linear(rng.randint(1, 4096)) for _ in range(rng.randint(0, 3))]
    text = format(layers)
    assert parse(text) == tuple(layers)
    assert format(parse(text)) == text
    # The kinds too: Pool(2) == Linear(2), as tuples.
    assert [type(layer) for layer in parse(text)] == [type(layer) for layer in layers]


WRONG = [
    # text, column of the offending character, what was expected there
    ("", 0, "a convolution first"),
    ("   ", 3, "a convolution first"),
    ("2p-(64)5c", 0, "a convolution first"),
    ("10fc", 0, "a convolution first"),
    ("5c", 0, "a convolution first"),
    ("x", 0, "a convolution first"),
    ("-(64)5c", 0, "a convolution first"),
    ("(", 1, "a number of maps"),
    ("()5c", 1, "a number of maps"),
    ("(0)5c", 1, "a number of maps, 1 or more"),
    ("(-64)5c", 1, "a number of maps"),
    ("( 64)5c", 1, "a number of maps"),
    ("(²)5c", 1, "a number of maps"),
    ("(1234567)5c", 1, "a number of at most 6 digits"),
    ("(64", 3, "')'"),
    ("(64 )5c", 3, "')'"),
    ("(64.0)5c", 3, "')'"),
    ("(64)", 4, "an odd kernel size"),
    ("(64)c", 4, "an odd kernel size"),
    ("(64)4c", 4, "an odd kernel size"),
    ("(64) 12c", 5, "an odd kernel size"),
    ("(64)0c", 4, "an odd kernel size"),
    ("(64)5", 5, "'c'"),
    ("(64)5p", 5, "'c'"),
    ("(64)5 c", 5, "'c'"),
    ("(64)5cc", 6, "'-' and another layer, or the end"),
    ("(64)5c 2p", 7, "'-' and another layer, or the end"),
    ("(64)5c-2p–10fc", 9, "'-' and another layer, or the end"),
    ("(64)5c-", 7, "a layer"),
    ("(64)5c- ", 8, "a layer"),
    ("(64)5c--2p", 7, "a layer"),
    ("(64)5c-p", 7, "a layer"),
    ("(64)5c-2", 8, "'p' for a pool or 'fc'"),
    ("(64)5c-3c", 8, "a convolution is written (64)3c"),
    ("(64)5c-2 p", 8, "'p' for a pool or 'fc'"),
    ("(64)5c-0p", 7, "a pool size from 2 to 16"),
    ("(64)5c-1p", 7, "a pool size from 2 to 16"),
    ("(64)5c-2p-17p", 10, "a pool size from 2 to 16"),
    ("(64)5c-10f", 10, "'c', to end 'fc'"),
    ("(64)5c-10fp", 10, "'c', to end 'fc'"),
    ("(64)5c-0fc", 7, "a number of features, 1 or more"),
    ("(64)5c-10fc-2p", 12, "a fully connected layer"),
    ("(64)5c-10fc- (64)3c", 13, "a fully connected layer"),
    ("(64)5c-10fc-", 12, "a layer"),
    ("\t(64)4c", 5, "an odd kernel size"),
]


@pytest.mark.parametrize(("text", "column", "expected"), WRONG, ids=[repr(text) for text, _, _ in WRONG])
def test_an_error_points_at_the_character(text, column, expected):
    with pytest.raises(NotationError) as caught:
        parse(text)
    assert caught.value.column == column
    assert expected in caught.value.expected
    reason, shown, caret = str(caught.value).split("\n")
    assert expected in reason and (f"at character {column + 1} of {text!r}," in reason or not text)
    assert shown == "  " + text.replace("\t", " ")
    assert caret == "  " + " " * column + "^"


def test_the_message_in_full():
    with pytest.raises(ValueError) as caught:
        parse("(64)5c-17p-10fc")
    assert str(caught.value) == (
        "notation: got '17' at character 8 of '(64)5c-17p-10fc', expected a pool size from 2 to 16\n"
        "  (64)5c-17p-10fc\n"
        "         ^"
    )


def test_what_is_no_text_is_refused():
    with pytest.raises(ValueError, match=r"got 5 \(int\), expected text such as"):
        parse(5)


@pytest.mark.parametrize(
    ("layers", "column"),
    [([Pool(2)], 0), ([], 0), ([Conv(64, 4)], 4), ([Conv(64, 5), Linear(10), Pool(2)], 12), ([Conv(64, 5.0)], 5)],
)
def test_layers_that_break_a_rule_are_not_written(layers, column):
    with pytest.raises(NotationError) as caught:
        format(layers)
    assert caught.value.column == column


def test_only_layers_are_written():
    with pytest.raises(TypeError, match=r"got \(64, 5\), expected a Conv, Pool or Linear"):
        format([(64, 5)])
