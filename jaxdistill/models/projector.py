"""The projector: student channels to feature channels, dropped after training."""

from flax import nnx
from jaxtyping import Array, Float

from jaxdistill.models.layers import BatchNorm, Conv


class Projector(nnx.Module):
    """conv1x1-BN-ReLU-conv1x1, or a single conv1x1 (specification, component 4)."""

    def __init__(self, inputs: int, outputs: int, hidden: int | None, *, rngs: nnx.Rngs) -> None:
        self.hidden = Conv(inputs, hidden, 1, bias=True, rngs=rngs) if hidden else None
        self.norm = BatchNorm(hidden) if hidden else None
        self.output = Conv(hidden or inputs, outputs, 1, bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w i"], *, train: bool) -> Float[Array, "b h w o"]:
        if self.hidden is not None and self.norm is not None:
            x = self.norm(self.hidden(x), train=train, rectify=True)
        return self.output(x)
