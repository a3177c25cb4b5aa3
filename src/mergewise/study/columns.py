"""The tables of a study, column by column: what reports and readers of the files can rely on.

`run_study` gives a document (`results.json`) whose entry `tables` holds each of these as a list of records with exactly
the columns below, None where there is nothing to say; each is also written as `NAME.csv` and `NAME.parquet`. Everything
is the same from run to run but `costs` and the document's entry `run`.

Scores are shares in [0, 1] and their ratios. Where a score X is listed as interval, there are three columns: `X` (the
estimate), `X_low` and `X_high` (95 % interval over items and draws). Few draws give intervals that would reach beyond
what scores can be: ends of shares are kept in [0, 1], those of ratios at or above 0. Differences are not cut.
"""

__all__ = ["REFERENCES", "SIDE_COLUMNS", "TABLES", "columns"]

_WHICH = {
    "base": "name of the base",
    "quality": "kind of base: 'pt' pretrained, 'it' instruction-tuned",
    "size": "label of the size",
    "parameters": "number of parameters of the base",
}
_MERGE = {
    "method": "name in the study; 'base' for the base itself, 'multitask' for the model trained on all tasks",
    "label": "the method's name for readers",
    "k": "number of merged experts",
}

REFERENCES = {"multitask": "Multitask", "base": "Base, not merged"}
"""What is scored beside merges, and its label for readers."""

SIDE_COLUMNS = {
    "normalised": "interval; held-in: mean over categories of the merged experts of score / own expert's score; "
    "held-out: mean over held-out categories of score / base's score",
    "raw": "interval; mean score without division, over the same categories",
    "expert": "interval; held-in only: mean score of each category's own expert",
    "base": "interval; mean score of the base on the same categories",
    "multitask": "interval; mean score of the multitask model on the same categories; None without one",
    "multitask_normalised": "interval; the multitask model's normalised score on the same categories",
    "gain": "interval; raw minus the raw score of the best single one of the merged experts on the same categories "
    "(the best by its estimate, draw by draw)",
    "beats_base": "share of bootstrap resamples in which the raw score is above the base's (equal ones count half)",
    "categories": "number of different categories",
    "tasks": "number of different tasks",
    "items": "n: number of different test items",
}

TABLES: dict[str, dict[str, str]] = {
    "scores": {
        **_WHICH,
        **_MERGE,
        "draws": "number of draws of which experts are merged, over which the row averages",
        "sets": "number of different sets of experts among the draws, which count alike however often each was drawn",
        **{f"{side}_{name}": text for side in ("held_in", "held_out") for name, text in SIDE_COLUMNS.items()},
    },
    "tasks": {
        **_WHICH,
        **_MERGE,
        "draw": "number of the draw, from 0; None for models that are not merges",
        "experts": "names of the merged experts, joined by ' + '",
        "task": "name of the task",
        "category": "its category",
        "held_in": "whether experts are trained for its category",
        "far": "whether its category is held out and unlike every held-in one",
        "merged": "whether the expert of its category is among the merged ones",
        "score": "mean score over the test items",
        "items": "number of test items",
        "expert": "score of the category's own expert; None for held-out tasks",
        "base_score": "score of the base",
        "multitask": "score of the multitask model; None without one",
    },
    "comparisons": {
        **_WHICH,
        "k": "number of merged experts",
        "side": "'held_in' or 'held_out'",
        "method": "name of the first method",
        "other": "name of the second method",
        "difference": "interval; normalised score of the first minus the second, paired over items and draws",
        "above": "share of bootstrap resamples in which the first is above (equal ones count half)",
    },
    "verdicts": {
        "question": "number of the question, with a letter where it has parts",
        "claim": "what the paper says, as a sentence that can hold or not",
        "measure": "what is measured, in words",
        "effect": "interval; positive where it speaks for the claim; None where the study cannot say anything",
        "verdict": "'holds', 'does not hold' or 'not enough evidence here'",
        "evidence": "a sentence with the figures, or with what is missing, written from the data",
        "bases": "names of the bases whose scores it rests on, joined by ', '",
        "methods": "names of the methods, joined in the same way",
        "k": "numbers of merged experts, joined in the same way",
        "merges": "number of merges that it rests on; every draw is one, also of the same experts",
        "merges_wanted": "how many that would be if all were there; 0 where the study never compares these",
    },
    "tuning": {
        **_WHICH,
        **_MERGE,
        "setting": "the parameters that were tried, as JSON",
        "score": "normalised held-in score on validation items, averaged over the draws",
        "chosen": "whether it was the best",
        "at_edge": "parameters of a chosen setting that lie at the edge of their grid, joined by ', '",
        "left_out": "tasks that settings were not compared on, as their own expert has no validation item right, "
        "joined in the same way",
    },
    "forecasts": {
        **_WHICH,
        "method": _MERGE["method"],
        "label": _MERGE["label"],
        "experts": "number of experts there are",
        **{
            f"{name}{end}": f"{what}, {which} over matrices weighted by energy; from the weights alone, None where "
            "there are no limits (not asked for, failed, or one expert), or no expert changes anything"
            for name, what in (
                ("k_safe", "most experts whose dimensions sum to clearly less than a matrix has"),
                ("k_star", "most experts whose dimensions sum to no more than a matrix has"),
                ("k_full", "fewest experts whose dimensions sum to clearly more than a matrix has"),
            )
            for end, which in (("_lower", "lower quartile"), ("", "median"), ("_upper", "upper quartile"))
        },
        "recommended": "number of experts that `limits` recommends to merge",
        "order": "names of all that it would merge, in its order, joined by ' + '; the recommended ones come first",
        "left_out": "names of those that it would not: copies, zero updates, of another base",
        "knee": "measured: smallest number of experts after which no more bring 2 % each of what all could gain over "
        "the base; None where the most that were merged are not past it, or `gains` are not of two numbers",
        "knee_low": "lower end of its 95 % interval, None as above",
        "knee_high": "upper end, None as above",
        "gains": "summed gain of the merged experts over the base as a share of what all could gain, by number of "
        "experts, as JSON; one expert alone is the first, and all are empty where experts gain nothing",
        "law_ceiling": "held-out score that the law says more and more experts approach, None if it cannot be fitted",
        "law_tail": "A of the law 1 − score = floor + A/(k + b); below 0 more experts harm, and its rules do not apply",
        "law_shift": "b of the law",
        "law_r_squared": "weighted share of the variance of the mean scores that the law explains; None without any",
        "law_experts": "number of experts that the forecast recommends by the law",
        "law_says": "the forecast's sentence and warnings, or why there is no law",
    },
    "costs": {
        **_WHICH,
        **_MERGE,
        "merges": "number of different merges that medians are over: draws of the same experts are one, unless they "
        "have random masks",
        "bytes_in": "bytes of base and experts that one merge reads",
        "merge_seconds": "median seconds on one core for one merge",
        "score_seconds": "median seconds on one core for scoring one merge on its test items",
        "tuning_seconds": "sum of seconds on one core for all that was tried to tune this method at this k",
    },
}
"""Every table with its columns, in order; 'interval; …' stands for three columns."""


def columns(table: str) -> list[str]:
    """Return the names of a table's columns in order, with the two ends of every interval.

    >>> columns("comparisons")[-4:]
    ['difference', 'difference_low', 'difference_high', 'above']
    """
    return [
        column
        for name, text in TABLES[table].items()
        for column in ((name, f"{name}_low", f"{name}_high") if text.startswith("interval") else (name,))
    ]
