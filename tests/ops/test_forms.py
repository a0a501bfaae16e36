"""The choice between forms."""

import jax
import jax.numpy as jnp
import pytest

from jaxdistill.ops import forms


def platform_chosen() -> str:
    names = ("plain", "cpu", "cuda")

    def form(index: int):
        return lambda x: x + index

    plain, cpu, gpu = map(form, range(3))
    chosen = jax.jit(lambda x: forms.choose("tried", x, plain=plain, cpu=cpu, gpu=gpu))
    return names[int(chosen(jnp.zeros((), int)))]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="for a CPU")
@pytest.mark.parametrize(
    ("value", "expected"),
    [("", "cpu"), ("other", "cpu"), ("tried", "plain"), ("other,tried", "plain"), ("all", "plain")],
)
def test_the_environment_switches_forms_off(value, expected, monkeypatch) -> None:
    monkeypatch.setenv(forms.PLAIN_OPS, value)
    assert platform_chosen() == expected


def test_one_form_for_both_platforms_is_traced_once() -> None:
    calls = []

    def form(x):
        calls.append(x)
        return x

    jax.jit(lambda x: forms.choose("tried", x, plain=lambda x: -x, cpu=form, gpu=form))(1.0)
    assert len(calls) == 1


def test_exported_graphs_have_forms_of_their_own() -> None:
    def form(index: int):
        return lambda x: x + index

    def both(x):
        first = forms.choose("tried", x, plain=form(1), cpu=form(2), gpu=form(3))
        second = forms.choose("tried", x, plain=form(1), cpu=form(2), exported=form(4))
        return first, second

    with forms.portable():
        assert both(0) == (1, 4)
    assert jax.jit(lambda x: both(x)[0])(0) != 1
