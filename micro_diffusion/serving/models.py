"""The runs that are served, each with its own sampler, noise levels and guidance, or with those that are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from micro_diffusion.generation.pipeline import Pipeline
from micro_diffusion.generation.samplers import option_names
from micro_diffusion.generation.weaker import NamedRun


class Models(Mapping[str, Pipeline]):
    """Pipelines by the name of their run, the first of which is the default, and what a client may change in them.

    Names of samplers and levels are those of the project's configs, and a weaker run is one of the served ones, so that
    no request opens a file that it chooses.
    """

    def __init__(self, pipelines: Mapping[str, Pipeline]) -> None:
        self._pipelines = dict(pipelines)
        self._changed = cache(self._make)  # as many at most as there are combinations of these names

    def __getitem__(self, name: str) -> Pipeline:
        return self._pipelines[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._pipelines)

    def __len__(self) -> int:
        return len(self._pipelines)

    def named(self, name: str | None) -> str:
        """The name of a model, None for the default.

        Raises:
            ValueError: when there is no such model.
        """
        name = next(iter(self)) if name is None else name
        _one_of("model", name, list(self))
        return name

    def pipeline(
        self, name: str, *, sampler: str | None = None, levels: str | None = None, weaker: str | None = None
    ) -> Pipeline:
        """The run of that name, with what is not None in place of its own; the same object for the same names.

        Raises:
            ValueError: for an unknown name, and for what does not fit the run.
        """
        for kind, chosen, there in (
            ("sampler", sampler, option_names("sampler")),
            ("list of levels", levels, option_names("levels")),
            ("weaker run", weaker, [other for other in self if other != name]),
        ):
            if chosen is not None:
                _one_of(kind, chosen, there)
        return self._changed(self.named(name), sampler, levels, weaker)

    def _make(self, name: str, sampler: str | None, levels: str | None, weaker: str | None) -> Pipeline:
        other = None if weaker is None else NamedRun(weaker, self[weaker].run)
        if sampler is levels is other is None:
            return self[name]
        return self[name].but_with(sampler=sampler, levels=levels, weaker=other)


def _one_of(kind: str, name: str, there: list[str]) -> None:
    if name not in there:
        remedy = f"choose one of {', '.join(there)}" if there else "serve another run beside this one"
        raise ValueError(f"there is no {kind} {name}; {remedy}")


def class_names(pipeline: Pipeline) -> list[str]:
    """Those that the run was trained on; none where it takes captions."""
    return list(getattr(pipeline.run.text_encoder, "names", []))
