"""That blocks train a batch whose matrix of logits does not fit, under a limit that open_clip's losses do not keep."""

from __future__ import annotations

import subprocess
import sys

import pytest

_UNDER_A_LIMIT = """
import resource
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch.nn.functional import normalize
from training.objectives import ObjectiveSettings, Pairs, make_loss

torch.set_num_threads(1)
count = 12_288
images = normalize(torch.randn(count, 4), dim=1).requires_grad_()
texts = normalize(torch.randn(count, 4), dim=1).requires_grad_()
scale, bias = torch.tensor(10.0, requires_grad=True), torch.tensor(-9.0, requires_grad=True)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20,) * 2)  # one whole matrix takes 576 MiB

def fits(loss, *given):
    try:
        loss(*given).backward()
    except RuntimeError as error:
        assert "memory" in str(error), error
        return False
    return bool(images.grad.isfinite().all())

def ours(kind, *given):
    return make_loss(ObjectiveSettings(), kind=kind)(Pairs(*given)).total

assert not fits(ClipLoss(), images, texts, scale)
assert not fits(SigLipLoss(), images, texts, scale, bias)
assert fits(ours, "softmax", images, texts, scale)
assert fits(ours, "sigmoid", images, texts, scale, bias)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_a_batch_whose_matrix_does_not_fit_is_trained_in_blocks() -> None:
    command = [sys.executable, "-c", _UNDER_A_LIMIT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
