--------------------------- MODULE TwoPhaseCommit ---------------------------
(* Two-phase commit, written by hand beside two_phase_commit.rules, to hold its states and attacks against TLC.    *)
(* Fault is "none", or the name of a fault of the rules: then TLC shows a shortest violation.                      *)
CONSTANTS Manager, Fault

VARIABLES manager, decision, heard, said

vars == <<manager, decision, heard, said>>

Init == /\ manager = [m \in Manager |-> "working"]
        /\ decision = "undecided"
        /\ heard = {}
        /\ said = {}

Prepare(m) == /\ manager[m] = "working"
              /\ manager' = [manager EXCEPT ![m] = "prepared"]
              /\ said' = said \union {m}
              /\ UNCHANGED <<decision, heard>>

GiveUp(m) == /\ \/ manager[m] = "working"
                \/ Fault = "abort_after_prepare" /\ manager[m] = "prepared"
             /\ manager' = [manager EXCEPT ![m] = "aborted"]
             /\ UNCHANGED <<decision, heard, said>>

Hear(m) == /\ decision = "undecided"
           /\ m \in said \/ Fault = "forged"
           /\ heard' = heard \union {m}
           /\ UNCHANGED <<manager, decision, said>>

DecideCommit == /\ decision = "undecided"
                /\ heard = Manager \/ Fault = "impatient"
                /\ decision' = "commit"
                /\ UNCHANGED <<manager, heard, said>>

DecideAbort == /\ decision = "undecided" \/ Fault = "second_thoughts"
               /\ decision' = "abort"
               /\ UNCHANGED <<manager, heard, said>>

ObeyCommit(m) == /\ decision = "commit"
                 /\ manager' = [manager EXCEPT ![m] = "committed"]
                 /\ UNCHANGED <<decision, heard, said>>

ObeyAbort(m) == /\ decision = "abort"
                /\ manager' = [manager EXCEPT ![m] = "aborted"]
                /\ UNCHANGED <<decision, heard, said>>

Next == \/ \E m \in Manager : Prepare(m) \/ GiveUp(m) \/ Hear(m) \/ ObeyCommit(m) \/ ObeyAbort(m)
        \/ DecideCommit
        \/ DecideAbort

Spec == Init /\ [][Next]_vars

all_or_nothing == \A a, b \in Manager : ~(manager[a] = "committed" /\ manager[b] = "aborted")

decided_for_good == [][decision # "undecided" => decision' = decision]_vars

only_prepared_commit ==
    [][\A m \in Manager : manager'[m] = "committed" => manager[m] \in {"prepared", "committed"}]_vars
=============================================================================
