"""Mutual TLS on real sockets, roles read back, and each wrong file found before it is used.

Method: a server thread and a client on loopback do a real handshake and exchange one byte, so
that a refusal of TLS 1.3, which the refused side learns of on its first read, counts as one.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ha_scheduler.cell.peers import parse_peers
from ha_scheduler.cell.tls_files import TlsFiles
from ha_scheduler.errors import CertificateRefused, OperatorError
from ha_scheduler.security.authority import (
    ISSUING,
    PEERS,
    client_files,
    create_authority,
    ec_key,
    engine_files,
    load,
    peer_files,
)
from ha_scheduler.security.checks import check_files
from ha_scheduler.security.contexts import client_context, harden, server_context
from ha_scheduler.security.files import read_certificates
from ha_scheduler.security.tls import Role, name_of, role_of
from tests.certificates import institution, issue, odd

CELL = parse_peers("a=127.0.0.1:1/2,b=127.0.0.1:3/4,c=127.0.0.1:5/6")
TIMEOUT_S = 10.0


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls")
    create_authority(path, CELL)
    return path


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("foreign")
    create_authority(path, CELL)
    return path


def link(
    server: ssl.SSLContext,
    client: ssl.SSLContext,
    look: Callable[[ssl.SSLSocket], object] = lambda _: None,
) -> tuple[object, object]:
    """What ``look`` returned, or the error, at the server and at the client."""
    results: list[object] = [None, None]
    left, right = socket.socketpair()

    def run(index: int, context: ssl.SSLContext, end: socket.socket) -> None:
        end.settimeout(TIMEOUT_S)
        try:
            with context.wrap_socket(end, server_side=index == 0) as wrapped:
                wrapped.sendall(b"x")
                assert wrapped.recv(1) == b"x"
                results[index] = look(wrapped)
        except Exception as error:
            results[index] = error
        finally:
            end.close()

    thread = threading.Thread(target=run, args=(0, server, left))
    thread.start()
    run(1, client, right)
    thread.join()
    return results[0], results[1]


def who(end: ssl.SSLSocket) -> tuple[Role, str]:
    return role_of(end), name_of(end)


def test_peers_read_each_others_role_and_name(directory: Path) -> None:
    server, client = link(
        server_context(peer_files(directory, "a")), client_context(peer_files(directory, "b")), who
    )
    assert server == (Role.PEER, "b")
    assert client == (Role.PEER, "a")


def test_a_client_is_seen_as_a_client(directory: Path) -> None:
    server, client = link(
        server_context(peer_files(directory, "a")), client_context(client_files(directory)), who
    )
    assert server == (Role.CLIENT, "client")
    assert client == (Role.PEER, "a")


def test_a_client_of_another_authority_is_refused(directory: Path, foreign: Path) -> None:
    ours = peer_files(directory, "a")
    theirs = peer_files(foreign, "b")
    mixed = TlsFiles(ours.ca_file, theirs.cert_file, theirs.key_file)  # it trusts us
    server, client = link(server_context(ours), client_context(mixed))
    assert isinstance(server, ssl.SSLCertVerificationError)
    assert isinstance(client, OSError)


def test_a_server_of_another_authority_is_refused(directory: Path, foreign: Path) -> None:
    ours = peer_files(directory, "a")
    theirs = peer_files(foreign, "b")
    mixed = TlsFiles(ours.ca_file, theirs.cert_file, theirs.key_file)
    server, client = link(server_context(mixed), client_context(ours))
    assert isinstance(client, ssl.SSLCertVerificationError)
    assert isinstance(server, OSError)


def test_a_caller_without_a_certificate_is_refused(directory: Path) -> None:
    nobody = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    nobody.check_hostname = False
    server, client = link(server_context(peer_files(directory, "a")), nobody)
    assert isinstance(server, ssl.SSLError)
    assert isinstance(client, OSError)


def old(files: TlsFiles) -> ssl.SSLContext:
    """A caller that speaks TLS 1.2 and older."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(files.ca_file)
    context.load_cert_chain(files.cert_file, files.key_file)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def test_tls_1_2_is_refused(directory: Path) -> None:
    files = client_files(directory)
    server, _ = link(server_context(peer_files(directory, "a")), old(files))
    assert getattr(server, "reason", "") == "UNSUPPORTED_PROTOCOL"


def test_both_sides_speak_tls_1_3(directory: Path) -> None:
    said = link(
        server_context(peer_files(directory, "a")),
        client_context(client_files(directory)),
        ssl.SSLSocket.version,
    )
    assert said == ("TLSv1.3", "TLSv1.3")


def test_no_session_can_be_resumed(directory: Path) -> None:
    """The side that calls is upstream's, which would take a ticket."""
    context = old(client_files(directory))
    context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED

    def session(end: ssl.SSLSocket) -> object:
        return end.session.has_ticket if end.session is not None else None

    _, client = link(server_context(peer_files(directory, "a")), context, session)
    assert client is not True


def test_a_context_of_upstream_is_made_one_of_ours(directory: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    harden(context)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    assert context.num_tickets == 0
    context = ssl.create_default_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OperatorError, match=r"leave out distributed\.comm\.tls\.max-version"):
        harden(context)


def test_certificates_pass_the_strict_checks_of_python_3_13_and_host_names(directory: Path) -> None:
    files = client_files(directory)
    strict = ssl.create_default_context(cafile=str(files.ca_file))
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    strict.load_cert_chain(files.cert_file, files.key_file)
    server_end, client_end = socket.socketpair()
    server = server_context(peer_files(directory, "a"))
    server.verify_flags |= ssl.VERIFY_X509_STRICT
    errors: list[Exception] = []

    def serve() -> None:
        try:
            with server.wrap_socket(server_end, server_side=True) as wrapped:
                wrapped.sendall(b"x")
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    with strict.wrap_socket(client_end, server_hostname="127.0.0.1") as wrapped:
        assert wrapped.recv(1) == b"x"
    thread.join()
    assert errors == []


@pytest.mark.parametrize(
    ("subject", "sentence"),
    [
        ([("CN", "a")], "0 fields organizationalUnitName"),
        ([("OU", "client"), ("OU", "peer"), ("CN", "a")], "2 fields organizationalUnitName"),
        ([("OU", "root"), ("CN", "a")], "role 'root'"),
        ([("OU", "peer")], "0 fields commonName"),
    ],
)
def test_an_unclear_subject_has_no_role(tmp_path: Path, subject, sentence) -> None:
    create_authority(tmp_path, CELL)
    files = odd(tmp_path, "odd", subject, institution(tmp_path))
    server, _ = link(server_context(peer_files(tmp_path, "a")), client_context(files), who)
    assert isinstance(server, CertificateRefused)
    assert sentence in str(server)


@pytest.mark.parametrize(
    "subject",
    [
        [("OU", "peer"), ("CN", "a")],
        [("CN", "a"), ("OU", "peer")],
        [("OU", "peer"), ("OU", "client"), ("CN", "a")],
        [("CN", "a")],
    ],
)
def test_the_issuing_authority_makes_no_peer(tmp_path: Path, subject) -> None:
    """Its key is on every node, so it must not be worth a place among the peers."""
    create_authority(tmp_path, CELL)
    files = odd(tmp_path, "odd", subject, load(tmp_path, ISSUING))
    server, client = link(server_context(peer_files(tmp_path, "b")), client_context(files), who)
    assert isinstance(server, ssl.SSLCertVerificationError)
    assert "permitted subtree" in str(server)
    server, client = link(server_context(files), client_context(peer_files(tmp_path, "b")), who)
    assert isinstance(client, ssl.SSLCertVerificationError)


def test_the_authority_of_peers_makes_no_engine_and_no_client(tmp_path: Path) -> None:
    create_authority(tmp_path, CELL)
    for role in ("engine", "client"):
        files = odd(tmp_path, "odd", [("OU", role), ("CN", "a")], load(tmp_path, PEERS))
        server, _ = link(server_context(peer_files(tmp_path, "b")), client_context(files), who)
        assert isinstance(server, ssl.SSLCertVerificationError)


def test_what_browsers_and_go_cannot_read_of_an_authority_is_not_critical(tmp_path: Path) -> None:
    """Go (Prometheus, Kubernetes) refuses constraints on directory names that are critical."""
    made = issue(tmp_path, "a")
    for name in ("peers-ca.pem", "issuing-ca.pem"):
        authority = x509.load_pem_x509_certificate((made / name).read_bytes())
        assert not authority.extensions.get_extension_for_class(x509.NameConstraints).critical


def test_a_holder_is_no_authority(tmp_path: Path) -> None:
    create_authority(tmp_path, CELL)
    holder = engine_files(tmp_path, "a")
    by = read_certificates(holder.cert_file)[0], ec_key(holder.key_file)
    files = odd(tmp_path, "odd", [("OU", "engine"), ("CN", "a")], by)
    files.cert_file.write_bytes(files.cert_file.read_bytes() + holder.cert_file.read_bytes())
    server, _ = link(server_context(peer_files(tmp_path, "b")), client_context(files), who)
    assert isinstance(server, ssl.SSLCertVerificationError)


def refused(files: TlsFiles, sentence: str, **expected) -> None:
    with pytest.raises(OperatorError, match=sentence) as caught:
        check_files(files, **expected)
    assert "\n" not in str(caught.value)


def test_each_missing_file_is_named(directory: Path) -> None:
    files = peer_files(directory, "a")
    none = directory / "none.pem"
    refused(TlsFiles(none, files.cert_file, files.key_file), "certificate file .*none.pem does not")
    refused(TlsFiles(files.ca_file, none, files.key_file), "certificate file .*none.pem does not")
    refused(TlsFiles(files.ca_file, files.cert_file, none), "key file .*none.pem does not exist")


def test_a_file_that_cannot_be_read_is_named(directory: Path) -> None:
    files = peer_files(directory, "a")
    refused(TlsFiles(files.ca_file, directory, files.key_file), "cannot be read: Is a directory")


def test_files_that_are_no_pem_are_named(directory: Path, tmp_path: Path) -> None:
    files = peer_files(directory, "a")
    text = tmp_path / "text.pem"
    text.write_text("hello")
    text.chmod(0o600)
    refused(TlsFiles(text, files.cert_file, files.key_file), "text.pem holds no certificate")
    refused(TlsFiles(files.ca_file, text, files.key_file), "text.pem holds no certificate")
    refused(TlsFiles(files.ca_file, files.cert_file, text), "text.pem holds no private key")
    # a certificate where the key belongs, as after a slip of the hand
    copied = tmp_path / "peer-a.pem"
    copied.write_bytes(files.cert_file.read_bytes())
    copied.chmod(0o600)
    swapped = TlsFiles(files.ca_file, files.cert_file, copied)
    refused(swapped, "peer-a.pem holds no private key")


def test_an_encrypted_key_is_refused(directory: Path, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "key.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    path.chmod(0o600)
    files = peer_files(directory, "a")
    refused(TlsFiles(files.ca_file, files.cert_file, path), "encrypted with a password")


def test_a_key_of_another_certificate_is_refused(directory: Path) -> None:
    a, b = peer_files(directory, "a"), peer_files(directory, "b")
    refused(TlsFiles(a.ca_file, a.cert_file, b.key_file), "peer-b-key.pem is not the key of")


def test_a_certificate_of_another_authority_is_found(directory: Path, foreign: Path) -> None:
    ours, theirs = peer_files(directory, "a"), peer_files(foreign, "a")
    refused(TlsFiles(ours.ca_file, theirs.cert_file, theirs.key_file), "was not issued by")


def test_expired_and_future_certificates_are_refused(directory: Path) -> None:
    peer, by, day = [("OU", "peer"), ("CN", "a")], load(directory, PEERS), timedelta(days=1)
    past = odd(directory, "odd", peer, by, valid=(-2 * day, -day))
    refused(past, "odd.pem expired on .*cert renew")
    future = odd(directory, "odd", peer, by, valid=(day, 2 * day))
    refused(future, "odd.pem is valid from .*set the clock")
    later = datetime.now(UTC) + timedelta(days=4000)
    refused(peer_files(directory, "a"), "ca.pem expired on", now=later)


def test_a_certificate_of_somebody_else_is_refused(directory: Path) -> None:
    refused(
        peer_files(directory, "b"),
        r"peer-b.pem is for peer b \(OU, CN\), not for peer a",
        role=Role.PEER,
        name="a",
    )
    refused(client_files(directory), "is for client client", role=Role.PEER, name="a")


def test_the_files_of_a_cell_are_accepted(directory: Path) -> None:
    check_files(peer_files(directory, "a"), role=Role.PEER, name="a")
    check_files(client_files(directory), role=Role.CLIENT)
