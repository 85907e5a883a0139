"""What a server counts, in the text format of Prometheus."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


class Metrics:
    """Counters that several threads add to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: Counter[int] = Counter()
        self._images = self._batches = 0
        self._seconds = 0.0
        self._open = 0

    @contextmanager
    def open_request(self) -> Iterator[None]:
        """Count a request that has arrived until it is answered."""
        with self._lock:
            self._open += 1
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1

    def answered(self, status: int) -> None:
        """Count an answer by its status of HTTP."""
        with self._lock:
            self._answers[status] += 1

    def generated(self, images: int, seconds: float) -> None:
        """Count a batch."""
        with self._lock:
            self._images += images
            self._batches += 1
            self._seconds += seconds

    def text(self, *, waiting: int) -> str:
        """All of them; waiting: images in the queue."""
        with self._lock:
            answers = [f'micro_diffusion_answers_total{{status="{s}"}} {n}' for s, n in sorted(self._answers.items())]
            numbers = {
                "images_total": ("counter", self._images),
                "batches_total": ("counter", self._batches),
                "generation_seconds_total": ("counter", round(self._seconds, 3)),
                "open_requests": ("gauge", self._open),
                "waiting_images": ("gauge", waiting),
            }
        lines = ["# TYPE micro_diffusion_answers_total counter", *answers]
        for name, (kind, number) in numbers.items():
            lines += [f"# TYPE micro_diffusion_{name} {kind}", f"micro_diffusion_{name} {number}"]
        return "\n".join(lines) + "\n"
