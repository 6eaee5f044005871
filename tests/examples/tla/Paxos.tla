------------------------------- MODULE Paxos --------------------------------
(* Single-decree Paxos, written by hand beside paxos.rules, to hold its states and attacks against TLC. Rounds are  *)
(* numbers, 0 is the round `none`. Fault is "none", or the name of a fault of the rules.                            *)
EXTENDS Naturals
CONSTANTS Acceptor, Last, Value, Quorum, Fault

Round == 0..Last

VARIABLES started, promise, proposed, voted, decided

vars == <<started, promise, proposed, voted, decided>>

Init == /\ started = {}
        /\ promise = {}
        /\ proposed = {}
        /\ voted = {}
        /\ decided = {}

(* What the rules write out as state of its own follows from the promises. *)
Joined(a, r) == \E p \in promise : p[1] = a /\ p[2] = r
Left(a, r) == \E p \in promise : p[1] = a /\ p[2] > r
Told(a, r, s) == \E p \in promise : p[1] = a /\ p[2] = r /\ s <= p[3]

Start(r) == /\ r # 0
            /\ started' = started \union {r}
            /\ UNCHANGED <<promise, proposed, voted, decided>>

Answer(a, r, last, v) ==
    /\ r \in started
    /\ ~Left(a, r)
    /\ last < r
    /\ last = 0 \/ <<a, last, v>> \in voted
    /\ Fault = "forgets_votes" \/ \A w \in voted : w[1] = a /\ w[2] < r => w[2] <= last
    /\ promise' = promise \union {<<a, r, last, v>>}
    /\ UNCHANGED <<started, proposed, voted, decided>>

Propose(r, q, last, v) ==
    /\ r # 0
    /\ Fault = "proposes_twice" \/ ~\E w \in Value : <<r, w>> \in proposed
    /\ Fault = "proposes_alone" \/ \A a \in q : Joined(a, r)
    /\ Fault = "any_vote_will_do" \/ \A a \in q, s \in Round : Told(a, r, s) => s <= last
    /\ last = 0 \/ \E a \in q : <<a, r, last, v>> \in promise
    /\ proposed' = proposed \union {<<r, v>>}
    /\ UNCHANGED <<started, promise, voted, decided>>

Vote(a, r, v) == /\ <<r, v>> \in proposed
                 /\ Fault = "votes_after_promise" \/ ~Left(a, r)
                 /\ voted' = voted \union {<<a, r, v>>}
                 /\ UNCHANGED <<started, promise, proposed, decided>>

Learn(r, v, q) == /\ IF Fault = "learns_from_one" THEN \E a \in q : <<a, r, v>> \in voted
                                                  ELSE \A a \in q : <<a, r, v>> \in voted
                  /\ decided' = decided \union {<<r, v>>}
                  /\ UNCHANGED <<started, promise, proposed, voted>>

Next == \E r \in Round, v \in Value :
            \/ Start(r)
            \/ \E a \in Acceptor : Vote(a, r, v) \/ \E last \in Round : Answer(a, r, last, v)
            \/ \E q \in Quorum : Learn(r, v, q) \/ \E last \in Round : Propose(r, q, last, v)

Spec == Init /\ [][Next]_vars

agreement == \A d, e \in decided : d[2] = e[2]
=============================================================================
