"""Concurrent requests as few network calls: what is alike is generated in one batch, by one thread."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Hashable, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

from PIL import Image

from micro_diffusion.generation.pipeline import Pipeline
from micro_diffusion.generation.recipe import Recipe
from micro_diffusion.serving.metrics import Metrics


class QueueFullError(Exception):
    """More images wait than the limit allows."""


class _Waiting(NamedTuple):
    """given: image and mask, with which a request has a batch of its own."""

    pipeline: Pipeline
    recipe: Recipe
    given: Mapping[str, Image.Image]
    result: Future[list[Image.Image]]

    def likeness(self) -> Hashable:
        """Requests of one likeness may share a batch: only prompts and seeds differ."""
        alone = dataclasses.replace(self.recipe, prompts=(), seeds=(), negative_prompts=())
        return self.pipeline, alone, id(self.result) if self.given else None


class Batcher:
    """Generates for many at once. The images are those of each request alone, up to rounding.

    Args:
        batch_size: images at once.
        queue_length: images that may wait.
        patience: seconds that the first request of a batch waits for others.
        metrics: counts batches and images.
    """

    def __init__(self, *, batch_size: int, queue_length: int, patience: float = 0.01, metrics: Metrics) -> None:
        self.batch_size, self.queue_length = batch_size, queue_length
        self._patience, self._metrics = patience, metrics
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._ends = False
        self._thread = threading.Thread(target=self._work, name="generation", daemon=True)
        self._thread.start()

    def submit(
        self, pipeline: Pipeline, recipe: Recipe, given: Mapping[str, Image.Image] | None = None
    ) -> Future[list[Image.Image]]:
        """The images, when they are there; a cancelled future is not generated any more once its turn comes.

        Args:
            pipeline: that the recipe is of.
            recipe: what to generate.
            given: image and mask that the recipe names, for `Pipeline.make`.

        Raises:
            QueueFullError: when too many images wait.
        """
        waiting = _Waiting(pipeline, recipe, given or {}, Future())
        with self._changed:
            length = self.length + len(recipe.prompts)
            if self._ends or length > self.queue_length:
                raise QueueFullError(f"{length} images would wait, which is above {self.queue_length}; try again later")
            self._waiting.append(waiting)
            self._changed.notify()
        return waiting.result

    @property
    def length(self) -> int:
        """Images that wait, those being generated not counted."""
        return sum(len(one.recipe.prompts) for one in list(self._waiting))

    def close(self) -> None:
        """Take no more requests, and return when those that wait are done."""
        with self._changed:
            self._ends = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ends)
                if not self._waiting:
                    return
            if not self._ends:
                time.sleep(self._patience)
            self._generate(self._next_batch())

    def _next_batch(self) -> list[_Waiting]:
        """The oldest request and those like it, as many as fit; the others keep their order."""
        with self._changed:
            first = self._waiting.popleft()
            batch, others, images = [first], deque[_Waiting](), len(first.recipe.prompts)
            while self._waiting:
                one = self._waiting.popleft()
                fits = images + len(one.recipe.prompts) <= self.batch_size and one.likeness() == first.likeness()
                (batch if fits else others).append(one)
                images += len(one.recipe.prompts) if fits else 0
            self._waiting = others
        return [one for one in batch if one.result.set_running_or_notify_cancel()]

    def _generate(self, batch: list[_Waiting]) -> None:
        if not batch:
            return
        joined = dataclasses.replace(
            batch[0].recipe,
            prompts=tuple(prompt for one in batch for prompt in one.recipe.prompts),
            seeds=tuple(seed for one in batch for seed in one.recipe.seeds),
            negative_prompts=tuple(text for one in batch for text in one.recipe.negative_prompts),
        )
        start = time.monotonic()
        try:
            given: Mapping[str, Any] = batch[0].given
            images = batch[0].pipeline.make(joined, **given, batch_size=self.batch_size, progress=False)
        except BaseException as error:  # the thread must go on; whoever waits is told
            self._failed(batch, error)
            return
        self._metrics.generated(len(images), time.monotonic() - start)
        for one in batch:
            count = len(one.recipe.prompts)
            mine, images = images[:count], images[count:]
            one.result.set_result(mine)

    def _failed(self, batch: list[_Waiting], error: BaseException) -> None:
        """Tell the one request that has failed; of several, generate each alone, since the fault may be of one."""
        if len(batch) == 1:
            batch[0].result.set_exception(error)
            return
        for one in batch:
            self._generate([one])
