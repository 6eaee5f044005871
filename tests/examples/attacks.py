"""The table of all faults of the examples: the violated claim, and the length of a shortest attack.

The length is that of a shortest attack from any initial state (`breadth_first.initial_states`) of the named world
(`worlds.py`); `traces/` has one such attack for each row, as JSON Lines. `bulkhead attack` finds one as short for each row.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Attack:
    """A fault ("": the rules without faults), the claim that it violates, the world, and the number of steps."""

    system: str
    fault: str
    claim: str
    steps: int
    world: str = ""

    @property
    def small(self) -> str:
        """The name of the world: that of the system, unless the row names another."""
        return self.world or self.system

    @property
    def trace(self) -> Path:
        """The file of the attack found by the breadth-first search."""
        return HERE / "traces" / f"{self.system}.{self.fault or 'as_it_is'}.{self.claim}.jsonl"


ATTACKS = (
    Attack("lock_server", "grants_twice", "mutual_exclusion", 6),
    Attack("lock_server", "not_noted", "mutual_exclusion", 6),
    Attack("lock_server", "released_and_held", "mutual_exclusion", 8),
    Attack("lock_server", "return_copied", "mutual_exclusion", 12),
    Attack("two_phase_commit", "abort_after_prepare", "all_or_nothing", 7),
    Attack("two_phase_commit", "abort_after_prepare", "only_prepared_commit", 5, "two_phase_commit/1"),
    Attack("two_phase_commit", "impatient", "all_or_nothing", 3),
    Attack("two_phase_commit", "impatient", "only_prepared_commit", 2),
    Attack("two_phase_commit", "second_thoughts", "all_or_nothing", 8),
    Attack("two_phase_commit", "second_thoughts", "decided_for_good", 4, "two_phase_commit/1"),
    Attack("two_phase_commit", "forged", "all_or_nothing", 5),
    Attack("two_phase_commit", "forged", "only_prepared_commit", 3, "two_phase_commit/1"),
    Attack("decide_when_seen", "", "never_decided", 9),
    Attack("decide_when_seen", "leaves_after_voting", "decided_by_all", 10),
    Attack("decide_when_seen", "sees_too_much", "decided_by_all", 5),
    Attack("ring_leader", "passes_all", "one_leader", 6, "ring_leader/2"),
    Attack("ring_leader", "passes_all", "leader_is_highest", 3, "ring_leader/2"),
    Attack("ring_leader", "wins_by_any", "one_leader", 4, "ring_leader/2"),
    Attack("ring_leader", "wins_by_any", "leader_is_highest", 2, "ring_leader/2"),
    Attack("ring_leader", "jumps", "one_leader", 6),
    Attack("ring_leader", "jumps", "leader_is_highest", 3),
    Attack("paxos", "votes_after_promise", "agreement", 10),
    Attack("paxos", "learns_from_one", "agreement", 10, "paxos/2"),
    Attack("paxos", "forgets_votes", "agreement", 10),
    Attack("paxos", "proposes_alone", "agreement", 6),
    Attack("paxos", "any_vote_will_do", "agreement", 10),
    Attack("paxos", "proposes_twice", "agreement", 8),
    Attack("sharded_store", "takes_in_twice", "one_owner", 5),
    Attack("sharded_store", "takes_in_twice", "reads_latest", 4),
    Attack("sharded_store", "keeps_the_key", "one_owner", 2),
    Attack("sharded_store", "number_reused", "not_lost", 2, "sharded_store/2"),
    Attack("sharded_store", "writes_anywhere", "reads_latest", 1),
    Attack("sharded_store", "acknowledges_too_soon", "not_lost", 3),
    Attack("mesi", "no_invalidation", "single_writer", 3),
    Attack("mesi", "writes_shared", "reads_latest", 3),
    Attack("mesi", "drops_modified", "reads_latest", 4),
    Attack("mesi", "no_write_back", "reads_latest", 4, "mesi/3"),
    Attack("mesi", "looks_nowhere", "single_writer", 2),
    Attack("german", "grants_beside_sharers", "single_writer", 8),
    Attack("german", "shares_the_exclusive", "single_writer", 8),
    Attack("german", "keeps_copy", "single_writer", 11),
    Attack("german", "unlisted", "single_writer", 8),
    Attack("german", "data_not_taken", "reads_latest", 12),
    Attack("german", "order_overwritten", "reads_latest", 10),
    Attack("peterson", "no_fence", "mutual_exclusion", 6),
    Attack("peterson", "takes_turn", "mutual_exclusion", 10),
    Attack("peterson", "no_turn", "mutual_exclusion", 10),
    Attack("peterson", "stores_reordered", "mutual_exclusion", 10),
    Attack("reliable_broadcast", "echoes_all", "one_value_ready", 6, "reliable_broadcast/liar"),
    Attack("reliable_broadcast", "ready_at_once", "one_value_ready", 2, "reliable_broadcast/liar"),
    Attack("reliable_broadcast", "ready_at_once", "integrity", 2, "reliable_broadcast/honest"),
    Attack("reliable_broadcast", "joins_anybody", "one_value_ready", 4, "reliable_broadcast/liar"),
    Attack("reliable_broadcast", "joins_anybody", "integrity", 3, "reliable_broadcast/honest"),
    Attack("reliable_broadcast", "delivers_on_one_word", "agreement", 4, "reliable_broadcast/liar"),
    Attack("reliable_broadcast", "delivers_on_one_word", "integrity", 2, "reliable_broadcast/honest"),
    Attack("reliable_broadcast", "echoes_anything", "integrity", 3, "reliable_broadcast/honest"),
    Attack("chord_ring", "joins_anywhere", "nobody_left_out", 2, "chord_ring/3"),
    Attack("chord_ring", "joins_anywhere", "one_before", 4, "chord_ring/3"),
    Attack("chord_ring", "crashes_too_soon", "goes_on", 2, "chord_ring/3"),
    Attack("chord_ring", "crashes_too_soon", "nobody_left_out", 3, "chord_ring/3"),
    Attack("chord_ring", "backup_crashes", "goes_on", 4, "chord_ring/3"),
    Attack("chord_ring", "repairs_too_much", "nobody_left_out", 2, "chord_ring/3"),
    Attack("chord_ring", "repairs_too_much", "goes_on", 6, "chord_ring/3"),
    Attack("chord_ring", "joins_untold", "nobody_left_out", 1, "chord_ring/3"),
    Attack("capabilities", "more_rights", "no_more_rights", 3),
    Attack("capabilities", "destroys_too_soon", "no_dangling", 3, "capabilities/2"),
    Attack("capabilities", "stale_descent", "no_more_rights", 4, "capabilities/2"),
    Attack("capabilities", "mints_while_revoking", "revoking_makes_progress", 3, "capabilities/2"),
    Attack("capabilities", "slot_overwritten", "no_more_rights", 3, "capabilities/2"),
    Attack("capabilities", "slot_overwritten", "no_dangling", 6, "capabilities/2"),
    Attack("capabilities", "root_dropped", "all_authority_is_given", 3, "capabilities/2"),
    Attack("protected_kvm", "reclaimed_unwiped", "no_secret_for_the_host", 5),
    Attack("protected_kvm", "reclaimed_alive", "guests_keep_pages", 3),
    Attack("protected_kvm", "donated_unwiped", "no_secret_for_the_host", 3),
    Attack("protected_kvm", "donates_shared", "only_by_sharing", 3),
    Attack("protected_kvm", "donates_shared", "guests_are_apart", 3),
    Attack("protected_kvm", "shares_twice", "guests_are_apart", 3),
    Attack("protected_kvm", "unshared_while_pinned", "pinned_stays", 3),
    Attack("protected_kvm", "stays_mapped", "only_by_sharing", 1),
    Attack("protected_kvm", "shares_with_protected", "protected_own_theirs", 2),
    Attack("protected_kvm", "reaped_with_pages", "guests_with_pages_exist", 4),
    Attack("hazard_pointers", "no_second_look", "no_use_after_free", 10),
    Attack("hazard_pointers", "frees_at_once", "no_use_after_free", 10),
    Attack("hazard_pointers", "taken_back_too_soon", "swaps_in_the_next", 13),
    Attack("hazard_pointers", "swaps_blindly", "top_is_linked", 12),
    Attack("leases", "slow_clock", "one_holder", 3),
    Attack("leases", "lent_too_soon", "one_holder", 2),
    Attack("leases", "any_number", "one_holder", 3, "leases/late"),
    Attack("leases", "no_fence", "never_back", 8),
    Attack("leases", "renews_the_dead", "one_holder", 3, "leases/late"),
    Attack("leases", "writes_late", "number_of_one", 2),
    Attack("snapshot", "overtakes", "cut_is_consistent", 3),
    Attack("snapshot", "overtakes", "nothing_made_up", 3),
    Attack("snapshot", "marker_overtakes", "nothing_lost", 3),
    Attack("snapshot", "not_recorded", "cut_is_consistent", 4),
    Attack("snapshot", "channel_forgotten", "nothing_lost", 4),
    Attack("snapshot", "never_closed", "nothing_made_up", 4),
    Attack("collector", "no_barrier", "held_is_kept", 11),
    Attack("collector", "no_barrier", "no_dangling", 12),
    Attack("collector", "new_is_white", "held_is_kept", 4),
    Attack("collector", "child_forgotten", "no_dangling", 9),
    Attack("collector", "child_forgotten", "held_is_kept", 10),
    Attack("collector", "swept_too_soon", "no_dangling", 7),
    Attack("collector", "roots_forgotten", "held_is_kept", 4),
    Attack("upgradable_lock", "two_wait", "one_writer", 7),
    Attack("upgradable_lock", "two_wait", "sees_latest", 8),
    Attack("upgradable_lock", "others_read", "no_reader_beside", 4),
    Attack("upgradable_lock", "others_read", "upgrade_is_atomic", 7),
    Attack("upgradable_lock", "still_reads", "no_reader_beside", 3),
    Attack("upgradable_lock", "interrupted", "waits_by_a_call", 3),
    Attack("upgradable_lock", "lets_go", "one_writer", 4),
    Attack("upgradable_lock", "lets_go", "sees_latest", 5),
    Attack("termination", "wakes_unnoticed", "all_at_rest", 5, "termination/2"),
    Attack("termination", "token_stays_white", "all_at_rest", 6),
    Attack("termination", "token_stays_white", "at_rest_for_good", 7),
    Attack("termination", "not_its_own", "all_at_rest", 5, "termination/2"),
    Attack("termination", "passed_by_active", "all_at_rest", 3, "termination/2"),
    Attack("termination", "any_token", "all_at_rest", 1, "termination/2"),
    Attack("counter", "", "never_full", 31),
    Attack("counter", "carries_too_soon", "never_full", 15),
)
