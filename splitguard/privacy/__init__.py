# SPDX-License-Identifier: Apache-2.0
"""How much a release gives away: exact accounting, what is guaranteed, who was sent how often, and bounds."""

from splitguard.privacy.accounting import (
    MEANINGLESS,
    Adjacency,
    compose_mu,
    delta_of,
    epsilon,
    epsilon_of,
    mu_of,
    sensitivity,
    sigma,
    verdict,
)
from splitguard.privacy.bounds import candidate_bound, candidate_orthogonal
from splitguard.privacy.crosscheck import epsilon_prv, sigma_prv
from splitguard.privacy.guarantee import Channel, Guarantee, Neighbours, compose
from splitguard.privacy.label_dp import epsilon_of_response, keep_probability, response
from splitguard.privacy.laplace import accuracy_bound_pure, candidate_bound_pure, epsilon_laplace, scale_laplace
from splitguard.privacy.ledger import Ledger

__all__ = [
    "MEANINGLESS",
    "Adjacency",
    "Channel",
    "Guarantee",
    "Ledger",
    "Neighbours",
    "accuracy_bound_pure",
    "candidate_bound",
    "candidate_bound_pure",
    "candidate_orthogonal",
    "compose",
    "compose_mu",
    "delta_of",
    "epsilon",
    "epsilon_laplace",
    "epsilon_of",
    "epsilon_of_response",
    "epsilon_prv",
    "keep_probability",
    "mu_of",
    "response",
    "scale_laplace",
    "sensitivity",
    "sigma",
    "sigma_prv",
    "verdict",
]
