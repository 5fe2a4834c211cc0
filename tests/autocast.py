"""What a loss and its gradient are under bfloat16 autocast, beside float32; for the tests of all tasks."""
import pytest
import torch


def value_and_gradient(make, mixed: bool) -> tuple[float, torch.Tensor]:
    """The loss and the gradient of what `make` gives (model, loss, batch), with no unit dropped."""
    torch.manual_seed(0)
    model, loss, batch = make()
    model.train()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout): layer.p = 0.
    torch.manual_seed(1)
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=mixed):
        found = loss(model, batch)
    found = found['loss'] if isinstance(found, dict) else found
    found.backward()
    return found.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def check_under_autocast(make):
    """Fails where 16 bits give another loss, or a gradient of another direction."""
    (exact, wanted), (mixed, found) = value_and_gradient(make, False), value_and_gradient(make, True)
    assert mixed == pytest.approx(exact, rel=.05)
    assert found.isfinite().all() and found.shape == wanted.shape and wanted.norm() > 0
    assert torch.cosine_similarity(found, wanted, dim=0) > .95
