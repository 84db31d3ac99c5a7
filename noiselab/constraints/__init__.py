"""Constraints on whole sequences: automata over tokens, and the exact law of independent tokens that one accepts."""

from .automaton import TokenAutomaton

__all__ = ["TokenAutomaton"]
