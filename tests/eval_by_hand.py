"""What an evaluation has to find, token by token: no batches, trees, caches or chunks."""

import math
import sys

import numpy as np
import torch

import cmc_runtime.cli
from cmc_runtime.data.samples import SampleMaker


def fused_by_hand(base, read, index, alpha, policy):
    """Logits as plain lists, by the definitions of the policies."""
    mapped = [i for i, place in enumerate(index) if place >= 0]
    added = {i: alpha * read[index[i]] for i in mapped}
    if policy == "zero":
        other = 0.0
    elif policy == "mean":
        other = sum(added.values()) / len(mapped)
    else:
        had = math.log(sum(math.exp(base[i]) for i in mapped))
        other = math.log(sum(math.exp(base[i] + added[i]) for i in mapped)) - had
    return np.array([one + added.get(i, other) for i, one in enumerate(base)])


def limited_by_hand(base, fused, limits):
    """The fused logits of tokens and rows that are steered, by probabilities."""
    chances = np.exp(log_softmax(base))
    if limits.gate < 1 and chances.max() >= limits.gate:
        return base
    return np.where(chances >= limits.plausible * chances.max(), fused, base)


def losses_by_hand(user, prompt_template, prompt, response, delta=None, fusion=None):
    """Loss of each token of a response and of its end, and whether it is the likeliest."""
    sample = SampleMaker(user, prompt_template).make(prompt, response, 1)
    context = None if delta is None else delta.context(prompt)
    found = []
    for i in range(sample.num_prompt, len(sample.ids)):
        logits = last_logits(user, sample.ids[:i])
        if context is not None:
            read = last_logits(delta.loaded, context.ids)
            index = fusion.tensors.index.tolist()
            fused = fused_by_hand(logits, read, index, fusion.alpha, fusion.unmapped)
            logits = limited_by_hand(logits, fused, fusion.limits)
            context.append(sample.ids[i])
        found.append((-log_softmax(logits)[sample.ids[i]], logits.argmax() == sample.ids[i]))
    return [np.array(one) for one in zip(*found, strict=True)]


def last_logits(loaded, ids):
    with torch.no_grad():
        return loaded.model(torch.tensor([ids])).logits[0, -1].double().numpy()


def log_softmax(logits):
    shifted = logits - logits.max()
    return shifted - math.log(np.exp(shifted).sum())


def run_eval(monkeypatch, capsys, folder, *arguments):
    """`cmc-runtime eval` in this process: its status, output and errors."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["cmc-runtime", "eval", *map(str, arguments)])
    capsys.readouterr()
    status = 0
    try:
        cmc_runtime.cli.main()
    except SystemExit as stop:
        status = stop.code or 0
    printed = capsys.readouterr()
    return status, printed.out, printed.err
