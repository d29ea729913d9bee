"""Ports of the embedded servers: free, apart from one another, and kept where they can be."""

import socket

from headrace.platform.address import GRPC_OFFSET, LOOPBACK, another_port, choose_ports, free


def test_every_door_has_a_free_port_of_its_own() -> None:
    ports = choose_ports()
    numbers = list(ports.all())
    assert len(numbers) == len(set(numbers)) == 14
    assert all(0 < number < 32768 and free(number) for number in numbers)


def test_ports_are_kept_but_for_those_that_were_taken() -> None:
    before = choose_ports()
    with socket.socket() as plain, socket.socket() as paired:
        for holder, port in ((plain, before.kafka), (paired, before.filer + GRPC_OFFSET)):
            holder.bind((LOOPBACK, port))
            holder.listen()
        after = choose_ports(before)
    changed = {name for name, port in before if getattr(after, name) != port}
    assert changed == {"kafka", "filer"}


def test_a_port_taken_on_all_addresses_is_not_free() -> None:
    with socket.socket() as holder:
        holder.bind(("0.0.0.0", 0))
        holder.listen()
        assert not free(holder.getsockname()[1])


def test_another_port_leaves_the_others_alone() -> None:
    before = choose_ports()
    after = another_port(before, "kafka")
    assert after.kafka != before.kafka
    assert after.model_copy(update={"kafka": before.kafka}) == before
