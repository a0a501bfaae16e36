"""The PyTorch original as a contestant of `benchmark_step.py`.

Its pictures lie ready in memory: reading and augmenting them costs it nothing.
"""

import time

import torch
from benchmark_child import Given, Seconds, between, serve, timed
from torch_original import Original

from jaxdistill.runtime import errors


class OriginalStep:
    def __init__(self, given: Given) -> None:
        settings = given.settings
        if given.threads:
            torch.set_num_threads(given.threads)
        torch.manual_seed(settings.seed)
        self._step = Original(settings, given.teacher_checkpoint, given.threads)
        device = self._step.device
        self._on_gpu = device.type == "cuda"
        self.found = {"device": torch.cuda.get_device_name() if self._on_gpu else "cpu"}
        batch, size = settings.training.batch_size, settings.data.image_size
        self._pictures = torch.rand(batch, 3, *size, device=device)
        self._mask = torch.randint(2, (batch, 1, *size), device=device).float()
        self.whole(1)

    def whole(self, steps: int) -> Seconds:
        step = self._step.step
        return {"whole step": timed(lambda: step(self._pictures, self._mask), steps, self._now)}

    def parts(self, steps: int) -> Seconds:
        teach, detect = self._step.teach, self._step.detect
        return {
            "teacher": timed(lambda: teach(self._pictures), steps, self._now),
            "detector": timed(lambda: detect(self._pictures), steps, self._now),
            **self._student(steps),
        }

    def device_memory(self) -> int | None:
        return torch.cuda.max_memory_allocated() if self._on_gpu else None

    def _student(self, steps: int) -> Seconds:
        """The student's step as a whole, and in its own three parts."""
        step = self._step
        logits, features = step.teach(self._pictures), step.detect(self._pictures)
        taken: Seconds = {name: [] for name in ("student step", "forward", "backward", "update")}
        for turn in range(steps + 1):
            marks = [self._now()]
            loss = step.loss(self._pictures, self._mask, logits, features)
            marks.append(self._now())
            step.backward(loss)
            marks.append(self._now())
            step.learn()
            marks.append(self._now())
            if turn > 0:  # the caches are cold at first
                for name, seconds in zip(
                    taken, (marks[-1] - marks[0], *between(marks)), strict=True
                ):
                    taken[name].append(seconds)
        return taken

    def _now(self) -> float:
        if self._on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter()


if __name__ == "__main__":
    raise SystemExit(errors.command(lambda: serve(OriginalStep)))
