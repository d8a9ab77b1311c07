"""Which node a certificate names, and that a link's certificates all have to name its node."""

import pytest

from agent.errors import IdentityRefused
from agent.identity.certificate_names import NameBinding, names_node, names_of, refusal

ID = "90defc5c-b1eb-87d7-a5e2-d651934801a0"
OTHER = {"subject": ((("commonName", "node-b"),),), "subjectAltName": (("DNS", "node-c"), ("IP Address", "10.0.0.1"))}


def certificate(*names: tuple[str, str]) -> dict[str, object]:
    return {"subjectAltName": names}


@pytest.mark.parametrize(
    ("kind", "value", "is_named"),
    [
        ("DNS", "node-b", True),
        ("DNS", "NODE-B", True),
        ("DNS", "node-b.mesh.example", True),
        ("URI", f"urn:uuid:{ID}", True),
        ("DNS", "node-bb", False),
        ("DNS", "x.node-b", False),
        ("DNS", "*", False),
        ("DNS", "*.mesh.example", False),
        ("URI", "urn:uuid:00000000-0000-8000-8000-000000000000", False),
        ("URI", "spiffe://mesh.example/ns/default/dc/dc1/svc/node-b", False),
        ("email", "node-b", False),
    ],
)
def test_a_certificate_names_a_node_by_its_name_or_its_id(kind: str, value: str, is_named: bool) -> None:
    assert names_node(names_of(certificate((kind, value))), "node-b", ID) is is_named


def test_the_subject_of_a_certificate_names_no_node() -> None:
    assert "its certificate is for DNS:node-c, and not for node node-b" in refusal(names_of(OTHER), "node-b", ID)
    assert "is for no name" in refusal(names_of(None), "node-b", ID)


def test_a_link_that_saw_no_certificate_is_not_bound_to_a_name() -> None:
    with pytest.raises(IdentityRefused, match="not dialled by https"):
        NameBinding().bind("node-b", ID, "http://b/mcp")


def test_a_later_connection_may_not_show_a_certificate_for_another_node() -> None:
    binding = NameBinding()
    binding.seen(certificate(("DNS", "node-b")))
    binding.bind("node-b", ID, "https://b/mcp")
    binding.seen(certificate(("URI", f"urn:uuid:{ID}")))
    with pytest.raises(
        IdentityRefused, match="node node-b is not believed any more: its certificate is for DNS:node-c"
    ):
        binding.seen(OTHER)
    mixed = NameBinding()
    mixed.seen(certificate(("DNS", "node-b")))
    mixed.seen(OTHER)
    with pytest.raises(IdentityRefused, match="https://b/mcp says that it is node node-b"):
        mixed.bind("node-b", ID, "https://b/mcp")
