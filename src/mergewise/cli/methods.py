"""``mergewise methods``."""

from typing import TYPE_CHECKING, Annotated

import typer

from mergewise.cli.output import JsonOption, print_json, print_pairs, print_table

if TYPE_CHECKING:
    from mergewise.method import PostStep

__all__ = ["methods"]


def methods(
    name: Annotated[str | None, typer.Argument(help="Explain this method, or post-step, and its parameters.")] = None,
    json: JsonOption = False,
) -> None:
    """List the merge methods, or explain one: what it does, its parameters and their defaults."""
    from mergewise import method as registry

    if name in registry.POST_STEPS:
        _explain_step(registry.POST_STEPS[name], as_json=json)
        return
    chosen = [registry.find_method(name)] if name else list(registry.methods().values())
    if json:
        print_json(
            [
                {
                    "name": m.name, "family": m.family, "space": m.space, "summary": m.summary, "source": m.source,
                    "parameters": [
                        {"name": p.name, "default": p.default, "takes": p.kind, "per_model": p.per_model,
                         "has_effect": not p.inert, "doc": p.doc}
                        for p in m.parameters
                    ],
                }
                for m in chosen
            ]
        )  # fmt: skip
    elif name:
        (m,) = chosen
        needs = {
            "delta": "changes to a base (base_model is required)",
            "weight": "weights, one of them the base's" if m.base_is_first else "weights (no base needed)",
            "either": "changes to a base if there is one, else weights",
        }[m.space]
        print_pairs([("method", m.name), ("does", m.summary), ("merges", needs), ("source", m.source)])
        if m.parameters:
            print()
            rows = [(p.name, p.default, p.kind, "expert" if p.per_model else "merge", p.doc) for p in m.parameters]
            print_table(("parameter", "default", "takes", "one per", "meaning"), rows)
    else:
        print_table(
            ("method", "family", "merges", "what it does"), [(m.name, m.family, m.space, m.summary) for m in chosen]
        )
        print("\nAfter any merge of changes to a base, 'post' takes steps:\n")
        print_table(("step", "what it does"), [(s.name, s.summary) for s in registry.POST_STEPS.values()])
        print("\n'mergewise methods NAME' explains one.")


def _explain_step(step: "PostStep", *, as_json: bool) -> None:
    if as_json:
        parameters = [{"name": p.name, "default": p.default, "takes": p.kind, "doc": p.doc} for p in step.parameters]
        print_json([{"name": step.name, "summary": step.summary, "source": step.source, "parameters": parameters}])
        return
    print_pairs([("post-step", step.name), ("does", step.summary), ("source", step.source)])
    print()
    print_table(
        ("parameter", "default", "takes", "meaning"), [(p.name, p.default, p.kind, p.doc) for p in step.parameters]
    )
