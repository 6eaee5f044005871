----------------------------- MODULE LockServer -----------------------------
(* The lock server, written by hand beside lock_server.rules, to hold its states and attacks against TLC.          *)
(* Fault is "none", or the name of a fault of the rules: then TLC shows a shortest violation.                      *)
CONSTANTS Node, Fault

VARIABLES server, asked, granted, returned, holds

vars == <<server, asked, granted, returned, holds>>

Init == /\ server = TRUE
        /\ asked = {}
        /\ granted = {}
        /\ returned = {}
        /\ holds = {}

Ask(n) == /\ asked' = asked \union {n}
          /\ UNCHANGED <<server, granted, returned, holds>>

Grant(n) == /\ n \in asked
            /\ server \/ Fault = "grants_twice"
            /\ asked' = asked \ {n}
            /\ server' = IF Fault = "not_noted" THEN server ELSE FALSE
            /\ granted' = granted \union {n}
            /\ UNCHANGED <<returned, holds>>

Take(n) == /\ n \in granted
           /\ granted' = granted \ {n}
           /\ holds' = holds \union {n}
           /\ UNCHANGED <<server, asked, returned>>

Release(n) == /\ n \in holds
              /\ holds' = IF Fault = "released_and_held" THEN holds ELSE holds \ {n}
              /\ returned' = returned \union {n}
              /\ UNCHANGED <<server, asked, granted>>

TakeBack(n) == /\ n \in returned
               /\ returned' = IF Fault = "return_copied" THEN returned ELSE returned \ {n}
               /\ server' = TRUE
               /\ UNCHANGED <<asked, granted, holds>>

Next == \E n \in Node : Ask(n) \/ Grant(n) \/ Take(n) \/ Release(n) \/ TakeBack(n)

Spec == Init /\ [][Next]_vars

mutual_exclusion == \A a, b \in holds : a = b
=============================================================================
