"""Gumbel noise that depends on a seed and a place only, in torch, on any device."""

import torch
from torch import Tensor

_ROUNDS = 10  # of Philox-4x32, as Salmon et al. (2011) and torch have it
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_WORD = 0xFFFFFFFF


def gumbel(rows: int, columns: int, seed: int, device: torch.device | None = None) -> Tensor:
    """float32 [rows, columns] Gumbel noise, each value a function of seed, row and column only.

    Column c takes word `c % 4` of the Philox block with the counter (c // 4, row, 0, 0). Its
    32 bits are a uniform v; small values of v, from which the winners come, keep full precision.
    """
    blocks = torch.arange((columns + 3) // 4, device=device).expand(rows, -1)
    row = torch.arange(rows, device=device)[:, None].expand_as(blocks)
    words = torch.stack(_philox(blocks, row, seed), dim=-1).flatten(1)[:, :columns]
    uniform = ((words.float() + 0.5) * 2.0**-32).clamp(max=1 - 2.0**-24)
    return -torch.log(-torch.log1p(-uniform))


def _philox(low: Tensor, high: Tensor, seed: int) -> list[Tensor]:
    """The four 32-bit words, as int64, of Philox-4x32 with the counter (low, high, 0, 0)."""
    counter = [low, high, torch.zeros_like(low), torch.zeros_like(low)]
    keys = [seed & _WORD, seed >> 32]
    for _ in range(_ROUNDS):
        first, second = counter[0] * _MULTIPLIERS[0], counter[2] * _MULTIPLIERS[1]
        counter = [
            (second >> 32 & _WORD) ^ counter[1] ^ keys[0],
            second & _WORD,
            (first >> 32 & _WORD) ^ counter[3] ^ keys[1],
            first & _WORD,
        ]
        keys = [(key + step) & _WORD for key, step in zip(keys, _KEY_STEPS, strict=True)]
    return counter
