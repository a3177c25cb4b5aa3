"""The embedded default of a study: one real base model, eight experts of it, and tasks seen and unseen.

>>> from mergewise.zoo import build_zoo
>>> zoo = build_zoo(progress=print)  # doctest: +SKIP
>>> zoo.experts["question_type"]  # doctest: +SKIP
PosixPath('/home/you/.cache/mergewise/experts/question_type-…')

`mergewise.zoo.encoder` scores models on the tasks; it imports torch, which this package itself does not.
"""

from mergewise.zoo.build import Zoo, build_zoo, default_cache, describe_zoo
from mergewise.zoo.errors import ZooError
from mergewise.zoo.tasks import Example, Task

__all__ = ["Example", "Task", "Zoo", "ZooError", "build_zoo", "default_cache", "describe_zoo"]
