"""Chat models that check their own answers: multi-turn conversations, checks, and Check-as-Context."""

from .chat import Chat, Message
from .check_as_context import CheckAsContext, Corrected, choices_of, revisions_of
from .checks import (
    Check,
    GroundTruthReview,
    KeywordVerdict,
    categories_of_bias,
    chain_of_thought,
    natural_language,
    right_or_wrong,
)
from .conversations import Conversations
from .revisers import CheckDetector, CheckReviser

__all__ = [
    "Chat",
    "Check",
    "CheckAsContext",
    "CheckDetector",
    "CheckReviser",
    "Conversations",
    "Corrected",
    "GroundTruthReview",
    "KeywordVerdict",
    "Message",
    "categories_of_bias",
    "chain_of_thought",
    "choices_of",
    "natural_language",
    "revisions_of",
    "right_or_wrong",
]
