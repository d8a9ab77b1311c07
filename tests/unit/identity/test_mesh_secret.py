"""The secret that all nodes of a mesh make of the same words."""

from agent.identity.mesh_secret import SECRET_BYTES, mesh_secrets


def test_every_node_makes_the_same_secret_of_the_same_words() -> None:
    # Part of the wire contract: nodes of other versions must make the same.
    assert [secret.hex() for secret in mesh_secrets((), ("canary-token-0123456789",))] == [
        "92246e4b72f2d35a514c7689626bea89e3aa494ab1f984860ff759d55f5d8366"
    ]


def test_words_between_nodes_count_before_the_tokens_of_clients_in_their_order() -> None:
    new, old = mesh_secrets(("new-0123456789", "old-0123456789"), ("token-0123456789",))
    assert (new, old) == (*mesh_secrets((), ("new-0123456789",)), *mesh_secrets(("old-0123456789",), ()))
    assert len(new) == len(old) == SECRET_BYTES
    assert mesh_secrets((), ()) == ()
