"""What confirmations are worth: PlainDelivery by the rules of delivery, AckedDelivery by its acknowledgements."""

from __future__ import annotations

import math

import pytest

from edge.core.cuts import CutModel
from edge.core.delivery import AckedDelivery, PlainDelivery, Poll

CUTS = CutModel(100, 15000)  # F = 150, G = 145
GRACE_S = 108.0


def plain(first: int = 1, cuts: CutModel = CUTS) -> PlainDelivery:
    delivery = PlainDelivery(first, cuts, 0.0)
    delivery.attach()
    return delivery


def send(delivery: PlainDelivery | AckedDelivery, count: int, short: int = 0) -> None:
    for seq in range(delivery.sent + 1, delivery.sent + count + 1):
        delivery.sending(seq, 0.0, short=seq == short)


def handled(delivery: PlainDelivery | AckedDelivery, count: int, now: float = 1.0, short: int = 0) -> None:
    send(delivery, count, short)
    delivery.barrier(now)
    delivery.pong(now)


def cleared(delivery: PlainDelivery, now: float = 1.0) -> None:
    delivery.pending_zero(delivery.poll(), now, GRACE_S)


# --- aia-v4 ----------------------------------------------------------------------------------------------------------


def test_pongs_answer_barriers_in_order() -> None:
    delivery = plain()
    assert not delivery.is_waiting()
    send(delivery, 3)
    delivery.barrier(1.0)
    send(delivery, 2)
    delivery.barrier(1.5)
    assert delivery.is_waiting()
    assert delivery.pong(1.6) is True
    assert (delivery.resume, delivery.proved) == (3, 3)
    assert delivery.pong(1.6) is True
    assert delivery.resume == 5
    assert not delivery.is_waiting()


def test_a_pong_that_nobody_asked_for_is_nothing() -> None:
    delivery = plain()
    send(delivery, 3)
    assert delivery.pong(1.0) is False
    assert delivery.resume == 0


def test_a_pong_behind_nothing_new_is_no_progress() -> None:
    delivery = plain()
    delivery.barrier(1.0)
    assert delivery.pong(1.1) is False


def test_the_round_trip_is_smoothed() -> None:
    delivery = plain()
    assert math.isnan(delivery.rtt_s)
    delivery.barrier(1.0)
    delivery.pong(1.25)
    assert delivery.rtt_s == 0.25
    delivery.barrier(2.0)
    delivery.pong(3.05)
    assert delivery.rtt_s == pytest.approx(0.35)
    delivery.detach()
    assert math.isnan(delivery.rtt_s)  # the next socket may go another way


def test_the_first_socket_needs_no_proof_the_second_does() -> None:
    delivery = plain()
    handled(delivery, 4)
    delivery.detach()
    delivery.attach()
    handled(delivery, 3, 2.5)
    assert (delivery.resume, delivery.proved) == (7, 4)
    delivery.prove(3.0)
    assert delivery.proved == 7
    handled(delivery, 2, 3.5)
    assert delivery.proved == 9


def test_a_dial_that_failed_counts_as_a_socket() -> None:
    delivery = PlainDelivery(1, CUTS, 0.0)
    delivery.sockets = 1
    delivery.attach()
    assert not delivery.proven
    assert delivery.alive_at == 0.0


def test_signs_of_life_are_proofs_and_pongs_of_the_first_socket() -> None:
    delivery = plain()
    delivery.barrier(4.0)
    delivery.pong(5.0)
    assert delivery.alive_at == 5.0
    delivery.detach()
    delivery.attach()
    assert delivery.alive_at == 5.0
    delivery.barrier(7.0)
    delivery.pong(7.5)
    assert delivery.alive_at == 5.0
    delivery.prove(8.0)
    assert delivery.alive_at == 8.0
    delivery.barrier(9.0)
    delivery.pong(9.0)
    assert delivery.alive_at == 8.0


def test_delivered_needs_the_cut_and_the_poll() -> None:
    delivery = plain()
    handled(delivery, 149)
    assert delivery.poll() == Poll(0, 149, 0)
    poll = delivery.poll()
    handled(delivery, 1)
    assert delivery.delivered == 0
    delivery.pending_zero(poll, 1.0, GRACE_S)
    assert (delivery.delivered, delivery.clear) == (0, 149)  # that poll was started before the barrier behind the cut
    cleared(delivery)
    assert (delivery.delivered, delivery.clear) == (150, 150)
    delivery.pending_zero(poll, 1.0, GRACE_S)
    assert (delivery.delivered, delivery.clear) == (150, 150)


def test_a_poll_of_a_session_that_may_have_ended_delivers_nothing() -> None:
    delivery = plain()
    handled(delivery, 200, now=10.0)
    delivery.pending_zero(delivery.poll(), 10.0 + GRACE_S, GRACE_S)
    assert (delivery.delivered, delivery.clear) == (0, 0)
    delivery.pending_zero(delivery.poll(), 9.9 + GRACE_S, GRACE_S)
    assert delivery.delivered == 150


def test_a_poll_without_proof_paces_but_delivers_nothing() -> None:
    delivery = plain()
    handled(delivery, 200)
    delivery.detach()
    delivery.attach()
    cleared(delivery, 2.0)
    assert (delivery.delivered, delivery.clear) == (0, 0)
    assert delivery.limit(10_000, 20) == 200 + 4 * 145
    delivery.prove(3.0)
    cleared(delivery, 3.0)
    assert (delivery.delivered, delivery.clear) == (150, 200)


def test_numbers_are_those_of_the_recording() -> None:
    delivery = plain(first=1001)
    assert (delivery.sent, delivery.resume, delivery.delivered, delivery.clear, delivery.proved) == (1000,) * 5
    handled(delivery, 150)
    assert delivery.poll() == Poll(1150, 1150, 0)
    cleared(delivery)
    assert delivery.delivered == 1150


def test_what_was_unconfirmed_is_sent_again_and_counts_as_repeats() -> None:
    delivery = plain()
    handled(delivery, 100)
    send(delivery, 7)
    delivery.barrier(2.0)
    delivery.detach()
    assert (delivery.sent, delivery.is_waiting()) == (100, False)
    delivery.detach()
    delivery.attach()
    delivery.prove(3.0)
    handled(delivery, 60, 3.5)
    assert delivery.poll() == Poll(143, 160, 7)


def test_short_packets_make_cuts_uncertain() -> None:
    delivery = plain()
    handled(delivery, 200, short=3)
    assert delivery.poll().surely_cut == 49


def test_what_is_unconfirmed_is_bounded() -> None:
    delivery = plain()
    assert delivery.limit(20, 20) == 20
    handled(delivery, 5, now=0.1)
    assert delivery.limit(20, 20) == 25


def test_a_slow_link_bounds_it_to_what_it_carries_in_two_seconds() -> None:
    delivery = plain()
    send(delivery, 20)
    delivery.barrier(0.0)
    delivery.pong(4.0)  # 5 packets per second
    assert delivery.window(20) == 10
    assert delivery.limit(20, 20) == 30


def test_after_a_stall_little_is_sent_until_the_link_has_shown_what_it_carries() -> None:
    for delivery in (plain(), acked()):
        delivery.stalled()
        delivery.detach()
        delivery.attach()
        assert delivery.limit(20, 20) == 4
        assert delivery.window(3) == 3


def test_open_cuts_are_bounded_by_the_last_pending_zero() -> None:
    delivery = plain()
    assert delivery.limit(10_000, 20) == 4 * 145
    assert delivery.limit(10_000, 6) == 3 * 145
    assert delivery.limit(10_000, 0) == 145
    handled(delivery, 300)
    assert delivery.limit(10_000, 20) == 4 * 145
    cleared(delivery)
    assert delivery.limit(10_000, 20) == 300 + 4 * 145
    send(delivery, 30)
    delivery.detach()
    assert delivery.limit(10_000, 20) == 300 + 4 * 145 - 30
    delivery.attach()
    delivery.prove(2.0)
    cleared(delivery, 2.0)
    assert delivery.limit(10_000, 20) == 300 + 4 * 145


def test_a_flushed_session_delivers_what_it_proved_where_no_cut_may_be_open() -> None:
    delivery = plain()
    handled(delivery, 149)
    cleared(delivery)
    assert not delivery.may_have_cut()
    delivery.flushed()
    assert delivery.delivered == 149

    delivery = plain()
    handled(delivery, 150)
    assert delivery.may_have_cut()
    delivery.flushed()
    assert delivery.delivered == 0

    delivery = plain()
    handled(delivery, 150)
    cleared(delivery)
    handled(delivery, 144)
    assert not delivery.may_have_cut()
    send(delivery, 1)
    assert delivery.may_have_cut()  # sent, and perhaps arrived


def test_repeats_may_have_made_a_cut() -> None:
    delivery = plain()
    handled(delivery, 140)
    cleared(delivery)
    send(delivery, 9)
    assert not delivery.may_have_cut()
    delivery.detach()
    assert not delivery.may_have_cut()
    delivery.attach()
    send(delivery, 1)
    assert delivery.may_have_cut()  # 140, nine of them twice, and one


def test_repeats_before_the_last_poll_are_in_the_balance() -> None:
    delivery = plain()
    handled(delivery, 130)
    send(delivery, 10)
    delivery.detach()
    delivery.attach()
    delivery.prove(2.0)
    cleared(delivery, 2.0)
    assert not delivery.may_have_cut()  # nothing went out since
    send(delivery, 9)
    assert not delivery.may_have_cut()
    send(delivery, 1)
    assert delivery.may_have_cut()  # 150, if all ten repeats had arrived


def test_what_was_repeated_before_the_last_poll_is_behind_it() -> None:
    delivery = plain()
    handled(delivery, 145)
    send(delivery, 10)
    delivery.detach()
    delivery.attach()
    delivery.prove(2.0)
    cleared(delivery, 2.0)
    assert not delivery.may_have_cut()  # the cut that the repeats may have made was transcribed by then
    handled(delivery, 12, 2.0)
    cleared(delivery, 2.0)
    send(delivery, 1)
    assert not delivery.may_have_cut()  # 157 with up to ten more: all behind the first cut, all before the second


def test_between_two_sockets_nothing_is_proved() -> None:
    delivery = plain()
    handled(delivery, 200)
    delivery.detach()
    cleared(delivery)
    assert (delivery.delivered, delivery.clear) == (0, 0)


def test_nothing_since_the_last_poll_means_no_cut_whatever_came_before() -> None:
    delivery = plain()
    handled(delivery, 30, short=3)
    cleared(delivery)
    assert not delivery.may_have_cut()
    send(delivery, 1)
    assert delivery.may_have_cut()  # with a short packet nothing is known of the next cut

    inexact = plain(cuts=CutModel(60, 15000))
    send(inexact, 1)
    assert inexact.may_have_cut()


def test_a_session_that_died_under_us_takes_back_what_its_pongs_said_since() -> None:
    delivery = plain()
    handled(delivery, 5)
    delivery.prove(2.0)
    handled(delivery, 5)
    assert delivery.proved == 10
    delivery.died()
    assert delivery.proved == 5


def test_what_a_sign_of_life_confirmed_stays_confirmed() -> None:
    delivery = plain()
    handled(delivery, 5)
    delivery.prove(1.0)
    delivery.detach()
    delivery.attach()
    handled(delivery, 5, 2.0)
    delivery.died()  # never proved on this socket: nothing to take back
    assert delivery.proved == 5
    delivery.prove(3.0)
    assert delivery.proved == 10
    delivery.detach()
    delivery.attach()
    delivery.prove(4.0)
    handled(delivery, 3, 4.0)
    delivery.died()
    assert delivery.proved == 10


def test_what_the_first_socket_was_told_since_the_last_sign_of_life_is_taken_back_too() -> None:
    delivery = plain()
    handled(delivery, 5)
    delivery.prove(1.0)
    handled(delivery, 3, 1.5)
    delivery.detach()
    delivery.attach()
    assert delivery.proved == 8  # by rule 1, as long as the session lives
    delivery.died()
    assert delivery.proved == 5


def test_what_rule_9_found_complete_is_not_taken_back() -> None:
    delivery = plain()
    handled(delivery, 5)
    delivery.complete()
    delivery.died()
    assert delivery.proved == 5


def test_an_aia_server_sends_no_acks() -> None:
    delivery = plain()
    send(delivery, 3)
    assert delivery.ack(2, 1.0) is False
    assert delivery.delivered == 0
    assert delivery.acks is False


# --- acks ------------------------------------------------------------------------------------------------------------


def acked(delivered: int = 0) -> AckedDelivery:
    delivery = AckedDelivery(delivered)
    delivery.attach()
    return delivery


def test_an_ack_delivers_what_was_sent_and_nothing_else() -> None:
    delivery = acked(10)
    assert (delivery.acks, delivery.sent, delivery.proved, delivery.resume) == (True, 10, 10, 10)
    send(delivery, 5)
    assert delivery.ack(10, 0.01) is False
    assert delivery.ack(16, 0.01) is False
    assert delivery.ack(15, 0.01) is True
    assert delivery.ack(15, 0.01) is False
    assert (delivery.delivered, delivery.proved, delivery.resume) == (15, 15, 15)


def test_a_hello_tells_what_is_stored_and_never_takes_back() -> None:
    delivery = acked(10)
    delivery.store(12)
    assert (delivery.sent, delivery.resume, delivery.delivered) == (12, 12, 12)
    delivery.store(3)
    assert (delivery.sent, delivery.delivered) == (12, 12)


def test_pongs_tell_what_is_handled_not_stored() -> None:
    delivery = acked()
    assert delivery.pong(0.0) is False
    send(delivery, 5)
    delivery.barrier(1.0)
    assert delivery.is_waiting()
    assert delivery.pong(1.1) is True
    assert (delivery.resume, delivery.delivered) == (5, 0)
    assert delivery.is_waiting()  # for the acknowledgement
    delivery.barrier(1.2)
    assert delivery.pong(1.3) is False
    assert delivery.ack(3, 1.4) is True
    assert delivery.resume == 5
    assert delivery.ack(5, 1.4) is True
    assert not delivery.is_waiting()
    delivery.barrier(1.5)
    assert delivery.is_waiting()
    assert delivery.rtt_s == pytest.approx(0.1 + (1.4 - 0.1) / 8)  # packet 1 went out at 0.0


def test_a_lost_socket_begins_again_behind_what_is_stored() -> None:
    delivery = acked()
    send(delivery, 9)
    delivery.barrier(1.0)
    delivery.pong(1.1)
    delivery.barrier(1.2)
    delivery.ack(4, 1.2)
    delivery.detach()
    assert (delivery.sent, delivery.resume, delivery.is_waiting()) == (4, 4, False)


def test_the_window_grows_with_the_measured_throughput() -> None:
    delivery = acked()
    assert delivery.limit(20, 20) == 20
    send(delivery, 20)
    delivery.ack(10, 0.5)  # 20 packets per second, two seconds of which may be in flight
    assert delivery.limit(20, 20) == 10 + 40
    delivery.ack(20, 0.6)
    assert delivery.limit(20, 20) == 20 + 66
    delivery.detach()
    delivery.attach()
    assert delivery.limit(20, 20) == 20 + 20


def test_an_acknowledgement_is_timed_from_its_packet() -> None:
    delivery = acked()
    send(delivery, 3)
    delivery.ack(2, 0.3)
    assert delivery.rtt_s == pytest.approx(0.3)
    delivery.ack(3, 9.0)  # nobody timed packet 3
    assert delivery.rtt_s == pytest.approx(0.3)
    send(delivery, 2)
    delivery.detach()
    delivery.ack(4, 9.0)
    assert math.isnan(delivery.rtt_s)


def test_the_window_has_an_end() -> None:
    delivery = acked()
    send(delivery, 100_000)
    delivery.ack(100_000, 0.05)
    assert delivery.limit(20, 20) == 100_000 + 15 * 20
