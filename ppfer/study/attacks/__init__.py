"""What attackers and honest readers get out of protected clips, one question a file."""

from torch import nn


def with_body(net: nn.Module, other: nn.Module) -> nn.Module:
    """The classifier or recognizer with another's weights, all but those of the last layer."""
    trained = other.net.state_dict().items()
    body = {key: value for key, value in trained if not key.startswith("fc.")}
    net.net.load_state_dict(net.net.state_dict() | body)
    return net
