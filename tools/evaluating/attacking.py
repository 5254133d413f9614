"""evaluate.py --attack: the accuracy on test images that were changed so that the model errs."""

import argparse
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from errors import UserError
from models.prompted import Prompted
from tools.common.args import Parser
from tools.common.flag_types import pixel_distance, seed_number, whole_number

EPS, STEPS = 4 / 255, 20  # those of the test in "Robust visual reprogramming" (ICLR 2025)
_PROMPT, _NO_PROMPT = "network, prompt and map", "network and map, not the prompt"


class WithoutPrompt(nn.Module):
    """mapping . f . resize: what an attacker computes who has never seen the prompt.

    C-AVP attacks its bare network with the data set's own labels, which are those of the network. For other networks
    the map tells which source labels a label means; the identity map gives C-AVP's attack.

    Args:
        model: the prompted model. Its parts are used, not copied.
    """

    def __init__(self, model: Prompted):
        super().__init__()
        self.network, self.mapping = model.network, model.mapping
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Images (B,3,h,w) in [0,1], resized to the network's input where they have another size -> (B,T)."""
        side = self.network.input_size
        if x.shape[2:] != (side, side):
            x = F.interpolate(x, (side, side), mode="bilinear", antialias=True)
        return self.mapping(self.network(x))


def add_attack_flags(parser: Parser) -> None:
    """--attack and its settings, which are refused without it."""
    parser.add_argument("--attack", choices=("pgd",), help="attack the test images: PGD in an L-infinity ball")
    distance = f"the most that a pixel moves, in [0,1]: a fraction or a decimal; default {_as_fraction(EPS)}"
    parser.add_argument("--eps", type=pixel_distance, metavar="EPS", help=distance)
    parser.add_argument("--steps", type=whole_number, metavar="N", help=f"steps of the attack; default {STEPS}")
    parser.add_argument("--attack-seed", type=seed_number, metavar="N", help="of the random starts; default 0")
    unseen = "the attacker does not know the prompt, as in C-AVP's paper; the images are then given to the whole model"
    parser.add_argument("--attack-without-prompt", action="store_true", help=unseen)
    parser.checks.append(check_attack)


def check_attack(args: argparse.Namespace) -> None:
    """Raises a UserError for settings without --attack, and for --attack beside --corruptions."""
    names = ("eps", "steps", "attack_seed", "attack_without_prompt")
    settings = {f"--{name.replace('_', '-')}": getattr(args, name) for name in names}
    given = [flag for flag, value in settings.items() if value is not None and value is not False]  # 0 is given
    if given and not args.attack:
        next_step = f"Add --attack pgd, or leave {' and '.join(given)} out."
        raise UserError(f"{', '.join(given)}: a setting of --attack.", "There is no --attack.", next_step)
    if args.attack and args.corruptions:
        asked, found = "--attack changes the clean test images.", "--corruptions is asked for, too."
        raise UserError(asked, found, "Type two commands, one with --attack and one with --corruptions.")


def attack_settings(args: argparse.Namespace) -> dict[str, Any] | None:
    """What identifies the attack that the flags ask for, in plain values; None without --attack."""
    if not args.attack:
        return None
    return {
        "attack": args.attack,
        "eps": EPS if args.eps is None else args.eps,
        "steps": STEPS if args.steps is None else args.steps,
        "seed": args.attack_seed or 0,
        "attacker_sees": _NO_PROMPT if args.attack_without_prompt else _PROMPT,
    }


def attacked_model(args: argparse.Namespace, model: nn.Module, num_classes: int) -> nn.Module:
    """The function that is attacked. No weight of it gets a gradient any more.

    Raises:
        UserError: there is no prompt to leave out, no other class that an image could be taken for, or no gradient.
    """
    if num_classes < 2:
        asked = "--attack makes a model take an image for one of another class."
        raise UserError(asked, "There is one class.", "Leave --attack out.")
    if args.attack_without_prompt and not isinstance(model, Prompted):
        raise UserError(
            "--attack-without-prompt: the attacker knows all but the prompt.",
            f"{args.checkpoint} has no prompt.",
            "Leave --attack-without-prompt out: --attack pgd attacks the whole model.",
        )
    if not getattr(getattr(model, "network", None), "gives_gradients", True):
        asked = "--attack pgd follows the gradient of the network."
        raise UserError(asked, "This network only answers: it gives none.", "Attack a network that is on this machine.")
    model.requires_grad_(False)  # only images need one, which takes less memory
    return WithoutPrompt(model) if args.attack_without_prompt else model


def describe_attack(result: dict[str, Any]) -> str:
    """Lines of text: the accuracy on attacked images, how they were attacked, and what the attacker knew."""
    attack, right = result["attack"], round(result["attack_acc"] * result["test_size"])
    how = f"PGD, {attack['steps']} steps, eps {_as_fraction(attack['eps'])}, seed {attack['seed']}"
    lines = ["", f"Accuracy under attack {result['attack_acc']:.4f} ({right} of {result['test_size']}): {how}"]
    lines.append(f"The attacker sees {attack['attacker_sees']}.")
    if attack["attacker_sees"] == _NO_PROMPT:
        lines.append("C-AVP's published figures are of such an attacker. --attack alone has one who sees the prompt.")
    return "\n".join(lines)


def _as_fraction(eps: float) -> str:
    return f"{round(255 * eps, 4):g}/255"
