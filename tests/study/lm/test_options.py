"""What specs say of language models is what the docs say that they can say."""

from key_tables import default_of, keys_of, table_of

from mergewise.study.lm.options import FamilyOptions, TrainOptions


def test_the_table_of_the_docs_has_every_option_with_its_default():
    known = dict(keys_of(FamilyOptions, "family.")) | dict(keys_of(TrainOptions, "experts.train."))
    assert table_of("lm.md") == {key: default_of(field) for key, field in known.items()}
