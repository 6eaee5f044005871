------------------------------- MODULE Grants -------------------------------
(* The small grant rules of gt.rules, written by hand for TLC. Relations are sets of tuples.                         *)
(* Fault is "none", or the name of a fault of the rules: then TLC shows a shortest violation.                        *)
CONSTANTS Domain, Frame, Ref, Process, Root, Fault

VARIABLES alive, paused, built, owns, grants, readonly, maps, writes, foreign

vars == <<alive, paused, built, owns, grants, readonly, maps, writes, foreign>>
life == <<alive, paused, built>>
tables == <<grants, readonly>>
mappings == <<maps, writes>>

Init == /\ alive = {Root}
        /\ paused = {} /\ built = {} /\ owns = {} /\ foreign = {}
        /\ grants = {} /\ readonly = {} /\ maps = {} /\ writes = {}

NoForeignPage(d) == \A f \in foreign : <<f, d>> \notin owns

Create(d) == /\ d \notin alive
             /\ alive' = alive \union {d} /\ paused' = paused \union {d} /\ built' = built \union {d}
             /\ UNCHANGED <<owns, foreign, tables, mappings>>

Alloc(f, d) == /\ d \in alive
               /\ \A x \in Domain : <<f, x>> \notin owns
               /\ f \notin foreign
               /\ owns' = owns \union {<<f, d>>}
               /\ UNCHANGED <<life, foreign, tables, mappings>>

Finish(d) == /\ d \in alive /\ d \in built
             /\ NoForeignPage(d)
             /\ paused' = paused \ {d} /\ built' = built \ {d}
             /\ UNCHANGED <<alive, owns, foreign, tables, mappings>>

Pause(d) == /\ d \in alive /\ d # Root /\ d \notin built
            /\ paused' = paused \union {d}
            /\ UNCHANGED <<alive, built, owns, foreign, tables, mappings>>

Unpause(d) == /\ d \in alive /\ d \notin built
              /\ paused' = paused \ {d}
              /\ UNCHANGED <<alive, built, owns, foreign, tables, mappings>>

Permit(d, r, e, f, ro) ==
    /\ d \in alive /\ d \notin paused /\ <<f, d>> \in owns
    /\ \A x \in Domain, g \in Frame : <<d, r, x, g>> \notin grants
    /\ grants' = grants \union {<<d, r, e, f>>}
    /\ readonly' = IF ro THEN readonly \union {<<d, r>>} ELSE readonly \ {<<d, r>>}
    /\ UNCHANGED <<life, owns, foreign, mappings>>

Granted(d, r, f) == CASE Fault = "b1" -> \E e \in Domain : <<d, r, e, f>> \in grants
                      [] Fault = "b2" -> f \in foreign
                      [] OTHER -> <<d, r, Root, f>> \in grants

Map(p, d, r, f) == /\ d \in alive
                   /\ Granted(d, r, f)
                   /\ maps' = maps \union {<<p, d, r, f>>}
                   /\ UNCHANGED <<life, owns, foreign, tables, writes>>

MapToWrite(p, d, r, f) == /\ d \in alive
                          /\ <<d, r, Root, f>> \in grants
                          /\ <<d, r>> \notin readonly
                          /\ maps' = maps \union {<<p, d, r, f>>} /\ writes' = writes \union {<<p, d, r, f>>}
                          /\ UNCHANGED <<life, owns, foreign, tables>>

Unmap(p, d, r, f) == /\ <<p, d, r, f>> \in maps
                     /\ maps' = maps \ {<<p, d, r, f>>} /\ writes' = writes \ {<<p, d, r, f>>}
                     /\ UNCHANGED <<life, owns, foreign, tables>>

Revoke(d, r) == /\ \A p \in Process, f \in Frame : <<p, d, r, f>> \notin maps
                /\ grants' = grants \ ({d} \X {r} \X Domain \X Frame)
                /\ UNCHANGED <<life, owns, foreign, readonly, mappings>>

ForeignMap(d, f) == /\ <<f, d>> \in owns /\ d \in paused /\ d \in built
                    /\ foreign' = foreign \union {f}
                    /\ UNCHANGED <<life, owns, tables, mappings>>

ForeignUnmap(f) == /\ f \in foreign
                   /\ foreign' = foreign \ {f}
                   /\ UNCHANGED <<life, owns, tables, mappings>>

Destroy(d) == /\ d \in alive /\ d # Root
              /\ NoForeignPage(d)
              /\ \A m \in maps : <<m[4], d>> \notin owns
              /\ alive' = alive \ {d} /\ paused' = paused \ {d} /\ built' = built \ {d}
              /\ owns' = owns \ (Frame \X {d})
              /\ grants' = grants \ ({d} \X Ref \X Domain \X Frame)
              /\ UNCHANGED <<foreign, readonly, mappings>>

Next == \/ \E d \in Domain : Create(d) \/ Finish(d) \/ Pause(d) \/ Unpause(d) \/ Destroy(d)
        \/ \E f \in Frame : ForeignUnmap(f)
        \/ \E f \in Frame, d \in Domain : Alloc(f, d) \/ ForeignMap(d, f)
        \/ \E d \in Domain, r \in Ref : Revoke(d, r)
        \/ \E d, e \in Domain, r \in Ref, f \in Frame, ro \in BOOLEAN : Permit(d, r, e, f, ro)
        \/ \E p \in Process, d \in Domain, r \in Ref, f \in Frame :
               Map(p, d, r, f) \/ MapToWrite(p, d, r, f) \/ Unmap(p, d, r, f)

Spec == Init /\ [][Next]_vars

cover == \A m \in maps, x \in Domain :
             <<m[4], x>> \in owns /\ x # Root => \E g \in grants : g[1] = x /\ g[2] = m[3] /\ g[3] = Root /\ g[4] = m[4]
=============================================================================
