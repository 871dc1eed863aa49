# Copyright 2026 The lawn_optax Authors. SPDX-License-Identifier: Apache-2.0
"""Fixed-norm training for JAX: Logit Attenuating Weight Normalization around Optax."""

from importlib.metadata import version as _version

from lawn_optax import baselines as baselines
from lawn_optax import diagnostics as diagnostics
from lawn_optax import groups as groups
from lawn_optax import losses as losses
from lawn_optax import metrics as metrics
from lawn_optax import nrq as nrq
from lawn_optax import schedules as schedules
from lawn_optax._algorithms import adam as adam
from lawn_optax._algorithms import lamb as lamb
from lawn_optax._algorithms import lamb_plus as lamb_plus
from lawn_optax._algorithms import sgd as sgd
from lawn_optax._describe import captured_norms as captured_norms
from lawn_optax._describe import describe as describe
from lawn_optax._describe import logit_scale as logit_scale
from lawn_optax._health import Extremes as Extremes
from lawn_optax._health import MonitorState as MonitorState
from lawn_optax._health import health as health
from lawn_optax._health import monitor as monitor
from lawn_optax._masters import MasterState as MasterState
from lawn_optax._masters import master_weights as master_weights
from lawn_optax._radius import Group as Group
from lawn_optax._radius import to_norms as to_norms
from lawn_optax._reset import ResetState as ResetState
from lawn_optax._reset import reset_at as reset_at
from lawn_optax._soft import BallState as BallState
from lawn_optax._soft import brake as brake
from lawn_optax._soft import max_norm as max_norm
from lawn_optax._soft import min_update as min_update
from lawn_optax._switch import PhaseState as PhaseState
from lawn_optax._switch import SwitchState as SwitchState
from lawn_optax._switch import SwitchWhenState as SwitchWhenState
from lawn_optax._switch import switch_at as switch_at
from lawn_optax._switch import switch_when as switch_when
from lawn_optax._transforms import SphereState as SphereState
from lawn_optax._transforms import TangentState as TangentState
from lawn_optax._transforms import project_tangent as project_tangent
from lawn_optax._transforms import renormalize as renormalize
from lawn_optax._unfuse import unfuse as unfuse
from lawn_optax._unfuse import unfused as unfused
from lawn_optax._upkeep import adopt as adopt
from lawn_optax._upkeep import check as check
from lawn_optax._upkeep import recapture as recapture
from lawn_optax._wrap import LawnState as LawnState
from lawn_optax._wrap import wrap as wrap
from lawn_optax.baselines._rescale import RescaleState as RescaleState
from lawn_optax.baselines._rescale import rescale_on_decay as rescale_on_decay

__version__ = _version("lawn-optax")

__all__ = [
    "BallState",
    "Extremes",
    "Group",
    "LawnState",
    "MasterState",
    "MonitorState",
    "PhaseState",
    "RescaleState",
    "ResetState",
    "SphereState",
    "SwitchState",
    "SwitchWhenState",
    "TangentState",
    "adam",
    "adopt",
    "baselines",
    "brake",
    "captured_norms",
    "check",
    "describe",
    "diagnostics",
    "groups",
    "health",
    "lamb",
    "lamb_plus",
    "logit_scale",
    "losses",
    "master_weights",
    "max_norm",
    "metrics",
    "min_update",
    "monitor",
    "nrq",
    "project_tangent",
    "recapture",
    "renormalize",
    "rescale_on_decay",
    "reset_at",
    "schedules",
    "sgd",
    "switch_at",
    "switch_when",
    "to_norms",
    "unfuse",
    "unfused",
    "wrap",
]
