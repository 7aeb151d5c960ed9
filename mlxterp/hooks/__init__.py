"""Hooks: what observes (`Detector`) or changes (`Controller`) a component on every pass, until it is detached."""

from .controller import Controller
from .detector import Detector
from .hook import AttachedHook, Hook
from .statistics import ActivationStatistics

__all__ = ["ActivationStatistics", "AttachedHook", "Controller", "Detector", "Hook"]
