"""What policy gradients have in common: the clipped objective and the penalty for drifting. Imports torch: import it late."""

from __future__ import annotations

import torch


def k3(ours: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """KL(π ‖ π_ref) estimated at each token that π said: π_ref/π − log(π_ref/π) − 1, which is never below 0.

    Schulman 2020, "Approximating KL Divergence" (k3); Shao et al. 2024, arXiv:2402.03300, eq. 4. Both arguments are
    log-probabilities of the tokens.
    """
    ratio = reference - ours
    return ratio.exp() - ratio - 1


def clipped(ours: torch.Tensor, then: torch.Tensor, advantage: float, reach: float) -> tuple[torch.Tensor, torch.Tensor]:
    """min(ρ A, clip(ρ, 1 − reach, 1 + reach) A) of each token, ρ = exp(ours − then), and where the clip binds.

    PPO's objective (Schulman et al. 2017, arXiv:1707.06347, eq. 7): `then` are the log-probabilities with which the tokens were
    drawn. Where the clip binds no gradient flows.
    """
    ratio = (ours - then).exp()
    held = ratio.clamp(1 - reach, 1 + reach)
    return torch.minimum(ratio * advantage, held * advantage), held * advantage < ratio * advantage
