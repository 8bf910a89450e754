import functools
import types
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest

from bayes_mlff.posterior import minibatch
from tests.support import compiled


def scaled(factor, *, power=2):
    def inner(x):
        return factor * x**power

    return inner


def other(factor):
    def inner(x):
        return factor + x**2

    return inner


def test_functions_are_known_by_their_code_closures_and_arguments():
    name = compiled.fingerprint(scaled(jnp.arange(3)))
    assert name == compiled.fingerprint(scaled(jnp.arange(3)))
    different = (
        scaled(jnp.arange(3), power=3),
        scaled(jnp.arange(4)),
        scaled(jnp.arange(3.0)),
        scaled(jnp.array([0, 1, 3])),
        scaled(np.arange(3)),
        other(jnp.arange(3)),
        functools.partial(scaled(jnp.arange(3)), 1),
        [scaled(jnp.arange(3))],
    )
    names = {compiled.fingerprint(one) for one in different}
    assert len(names) == len(different) and name not in names


def test_functions_within_functions_count():
    def outer(inner):
        return lambda x: inner(x) + 1

    assert compiled.fingerprint(outer(scaled(1))) == compiled.fingerprint(outer(scaled(1)))
    assert compiled.fingerprint(outer(scaled(1))) != compiled.fingerprint(outer(scaled(2)))


def test_what_does_not_tell_what_it_is_made_of_is_not_taken_for_another():
    with pytest.raises(compiled.UnknownPartError, match="SimpleNamespace"):
        compiled.fingerprint(scaled(types.SimpleNamespace(a=1)))


def twice(x):
    return once(x) + once(x)


def once(x):
    return minibatch.draw_probability(x, x, x, 2)


def test_what_is_found_by_name_counts(monkeypatch):
    """A planted fault must neither be hidden by what was compiled before it, nor be taken by what comes after it."""
    name = compiled.fingerprint(twice)
    with monkeypatch.context() as planted:
        planted.setattr(minibatch, "draw_probability", lambda *_: 0.5)
        in_the_package = compiled.fingerprint(twice)
    with monkeypatch.context() as planted:
        planted.setitem(twice.__globals__, "once", lambda x: x)
        in_the_test = compiled.fingerprint(twice)
    with monkeypatch.context() as planted:
        planted.setattr(minibatch, "draw_probability", mock.MagicMock())
        with pytest.raises(compiled.UnknownPartError):
            compiled.fingerprint(twice)
    assert len({name, in_the_package, in_the_test}) == 3
    assert compiled.fingerprint(twice) == name
