"""The sparse FFN: only the kept channels of both projections are computed, forward and backward.

With kept indices I, |I| = k:

    z = x W1[I]ᵀ + b1[I]      (N, k)
    y = act(z) W2[:, I]ᵀ + b2   (N, d)

and, the weights being frozen, backward is two products of the same size:

    dz = (dy W2[:, I]) · act'(z),   dx = dz W1[I]

Where the block has a gate Wg, act(z) becomes act(g) · z with g = x Wg[I]ᵀ + bg[I], and its gradient
goes to x through both maps.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.activations import SiLUActivation

from sparselora.sparse.blocks import FFNBlock
from sparselora.sparse.selector import sample_tokens, select_ffn_channels


def _activation_backward(activation: nn.Module, grad: Tensor, pre_activation: Tensor) -> Tensor:
    """`grad` · act'(pre_activation), elementwise, from the pre-activation alone."""
    if isinstance(activation, nn.GELU):
        approximate = activation.approximate
        return torch.ops.aten.gelu_backward(grad, pre_activation, approximate=approximate)
    # transformers' GELUActivation holds the function that it applies.
    if getattr(activation, "act", None) is nn.functional.gelu:
        return torch.ops.aten.gelu_backward(grad, pre_activation)
    if isinstance(activation, nn.SiLU | SiLUActivation):
        return torch.ops.aten.silu_backward(grad, pre_activation)
    with torch.enable_grad():
        variable = pre_activation.detach().requires_grad_()
        return torch.autograd.grad(activation(variable), variable, grad)[0]


class SparseFFNFunction(torch.autograd.Function):
    """act(x w1ᵀ + b1) w2 + b2, saving the pre-activations and the gathered, frozen weights.

    With a gate, (act(x wgᵀ + bg) · (x w1ᵀ + b1)) w2 + b2.

    Shapes: x (N, d); w1, wg, w2 (k, d); b1, bg (k,); b2 (d,); result (N, d). Biases may be None, and so
    may wg. Gradients: x, b1, bg, b2. The weights are frozen and get none.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w1: Tensor,
        b1: Tensor | None,
        w2: Tensor,
        b2: Tensor | None,
        activation: nn.Module,
        wg: Tensor | None = None,
        bg: Tensor | None = None,
    ) -> Tensor:
        z = nn.functional.linear(x, w1, b1)
        g = None if wg is None else nn.functional.linear(x, wg, bg)
        a = activation(z) if g is None else activation(g) * z
        y = a @ w2 if b2 is None else torch.addmm(b2, a, w2)
        ctx.activation = activation
        ctx.save_for_backward(z, w1, w2, g, wg)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad_y,) = grads
        z, w1, w2, g, wg = ctx.saved_tensors
        needs_x, _, needs_b1, _, needs_b2, _, _, needs_bg = ctx.needs_input_grad
        grad_x = grad_b1 = grad_bg = None
        if needs_x or needs_b1 or needs_bg:
            grad_a = grad_y @ w2.t()
            if g is None:
                grad_z = _activation_backward(ctx.activation, grad_a, z)
                grad_x = grad_z @ w1 if needs_x else None
            else:
                grad_g = _activation_backward(ctx.activation, grad_a * z, g)
                grad_z = grad_a * ctx.activation(g)
                grad_x = torch.addmm(grad_z @ w1, grad_g, wg) if needs_x else None
                grad_bg = grad_g.sum(0) if needs_bg else None
            grad_b1 = grad_z.sum(0) if needs_b1 else None
        grad_b2 = grad_y.sum(0) if needs_b2 else None
        return grad_x, None, grad_b1, None, grad_b2, None, None, grad_bg


class SparsityState:
    """What the sparse blocks of one model share: the switch, and the batch in hand."""

    def __init__(self) -> None:
        self.enabled = False
        self.attention_mask: Tensor | None = None
        self.forward_count: int | None = None
        """Which call of the backbone is running; None where it was never called."""
        self._unmatched_forwards = 0
        self._backward_task = -1

    def begin_forward(self, attention_mask: Tensor | None) -> None:
        """Note a call of the backbone; a mask that is not (batch, length) is not one of padding."""
        two_dimensional = attention_mask is not None and attention_mask.dim() == 2
        self.attention_mask = attention_mask if two_dimensional else None
        self.forward_count = (self.forward_count or 0) + 1
        self._unmatched_forwards += torch.is_grad_enabled()

    def check_recomputation(self) -> None:
        """Refuse a recomputation, under gradient checkpointing, whose forward call is not known.

        Raises:
            RuntimeError: inside a backward pass that several forward calls went before.
        """
        task = torch._C._current_graph_task_id()
        if task in (-1, self._backward_task):
            return
        if self._unmatched_forwards > 1:
            raise RuntimeError(
                f"gradient checkpointing: {self._unmatched_forwards} forward calls before one "
                "backward pass; sparse blocks need a backward pass after each"
            )
        self._backward_task, self._unmatched_forwards = task, 0


class SparseFFN:
    """One block made sparse: chooses its channels and computes with them.

    Args:
        block: with its original modules.
        estimator: hidden states (n, d), token weights → scores (f,).
        kept: k, from 1 to f.
        tokens: how many tokens are scored; None for all.
        state: shared by the blocks of a model.
    """

    def __init__(
        self,
        block: FFNBlock,
        estimator: nn.Module,
        kept: int,
        tokens: int | None,
        state: SparsityState,
    ) -> None:
        self.block = block
        self.estimator = estimator
        self.kept = kept
        self.tokens = tokens
        self.state = state
        self.training = True
        self.calls = 0
        self.channels_computed = 0
        self._choice: tuple[int | None, Tensor] | None = None

    @property
    def chosen(self) -> Tensor | None:
        """The channels of the last sparse call, (k,), sorted; None before the first."""
        return None if self._choice is None else self._choice[1]

    @property
    def realised_sparsity(self) -> float | None:
        """Share of channels left out over the calls so far, counted in the step; None before."""
        if not self.calls:
            return None
        return 1.0 - self.channels_computed / (self.calls * self.block.intermediate_size)

    @torch.no_grad()
    def select(self, hidden_states: Tensor) -> Tensor:
        """The channels for this batch: (N, d) → (k,), sorted.

        Within one call of the model the choice is made once, so that a recomputation under gradient
        checkpointing takes the same channels.
        """
        self.state.check_recomputation()
        count = self.state.forward_count
        if self._choice is not None and count is not None and self._choice[0] == count:
            return self._choice[1]
        mask = self.state.attention_mask
        mask = None if mask is None else mask.reshape(-1)
        device = hidden_states.device
        if any(buffer.device != device for buffer in self.estimator.buffers()):
            self.estimator.to(device)
        sample, weights = sample_tokens(hidden_states, mask, self.tokens)
        indices = select_ffn_channels(self.estimator(sample, weights), self.kept)
        self._choice = (count, indices)
        return indices

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(…, d) → (…, d), without the block's dropout, which its layer applies."""
        x = hidden_states.reshape(-1, hidden_states.shape[-1])
        indices = self.select(x)
        self.calls += 1
        self.channels_computed += indices.numel()
        lin2, gate = self.block.lin2, self.block.gate
        w1, b1 = _rows(self.block.lin1, indices)
        w2 = lin2.weight.t().index_select(0, indices)
        b2: Tensor | None = lin2.bias
        wg, bg = (None, None) if gate is None else _rows(gate, indices)
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, w1, w2 = x.to(dtype), w1.to(dtype), w2.to(dtype)
            b1, b2, wg, bg = (
                None if tensor is None else tensor.to(dtype) for tensor in (b1, b2, wg, bg)
            )
        y: Tensor = SparseFFNFunction.apply(x, w1, b1, w2, b2, self.block.activation, wg, bg)
        return y.view(hidden_states.shape)


def _rows(linear: nn.Linear, indices: Tensor) -> tuple[Tensor, Tensor | None]:
    bias = None if linear.bias is None else linear.bias.index_select(0, indices)
    return linear.weight.index_select(0, indices), bias
