"""What the paper reports, beside which ours stand."""

from mergewise.study.published import PUBLISHED, arrow, published_evidence


def test_bases_have_the_papers_names():
    assert [row.base for row in PUBLISHED][3:5] == ["PaLM-2-IT 64B", "PaLM-2 1B"]


def test_numbers_are_joined_by_arrows_and_none_is_a_dash():
    assert arrow((1.73, 1.72)) == "1.73 → 1.72"
    assert arrow((1.05,)) == "1.05"
    assert arrow(()) == "–"


def test_the_published_values_speak_to_the_claims():
    """Each by hand from the table: .91 - .66, …; .86 - .39, …"""
    assert published_evidence() == {
        "1": "Held-in, instruction-tuned minus pretrained at 1B, 8B, 64B: +0.25, +0.27, +0.20 with 2 experts, "
        "+0.47, +0.46, +0.26 with 8.",
        "2": "Held-in, 64B minus 1B: instruction-tuned +0.09 with 2 experts, +0.07 with 8; "
        "pretrained +0.14 with 2 experts, +0.28 with 8.",
        "3a": "Held-out of instruction-tuned bases minus 1: 0.00 to +0.18.",
        "3b": "Held-out with 8 experts minus multitask, instruction-tuned: "
        "−0.06 at 1B, −0.09 at 8B, 0.00 at 24B, +0.04 at 64B.",
        "4": "Loss of held-in from 2 to 8 experts: 0.05 at PaLM-2-IT 1B, 0.07 at PaLM-2-IT 64B, 0.27 at PaLM-2 1B, "
        "0.13 at PaLM-2 64B.",
        "5": "At PaLM-2-IT 64B with 8 experts the four methods lie within 0.00 held-in and 0.01 held-out.",
    }
