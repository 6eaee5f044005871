/* The lock server, written by hand beside lock_server.rules, to hold its states and attacks against Spin.
 * One process takes one step at a time; each step is one d_step, so that Spin stores exactly the states between steps.
 *   spin -DN=3 -a lock_server.pml && gcc -O2 -DBFS -DNOREDUCE -o pan pan.c && ./pan
 * N is 2, 3 or 4. With -DGRANTS_TWICE, -DNOT_NOTED, -DRELEASED_AND_HELD or -DRETURN_COPIED it has the fault of that name,
 * and Spin shows a shortest attack. */

#ifndef N
#define N 3
#endif

bool server_holds = true;
bool asked[N];
bool granted[N];
bool returned[N];
bool holds[N];

#ifdef GRANTS_TWICE
#define MAY_GRANT true
#else
#define MAY_GRANT server_holds
#endif
#ifdef NOT_NOTED
#define NOTED server_holds
#else
#define NOTED false
#endif
#ifdef RELEASED_AND_HELD
#define KEPT true
#else
#define KEPT false
#endif
#ifdef RETURN_COPIED
#define STAYS true
#else
#define STAYS false
#endif

#if N == 2
#define HOLDERS (holds[0] + holds[1])
#elif N == 3
#define HOLDERS (holds[0] + holds[1] + holds[2])
#else
#define HOLDERS (holds[0] + holds[1] + holds[2] + holds[3])
#endif

/* Asked where a client takes the lock; only there can it become false. */
#define MUTUAL_EXCLUSION assert(HOLDERS <= 1)

inline steps(i) {
    if
    :: d_step { true -> asked[i] = true }
    :: d_step { asked[i] && MAY_GRANT -> asked[i] = false; server_holds = NOTED; granted[i] = true }
    :: d_step { granted[i] -> granted[i] = false; holds[i] = true; MUTUAL_EXCLUSION }
    :: d_step { holds[i] -> holds[i] = KEPT; returned[i] = true }
    :: d_step { returned[i] -> returned[i] = STAYS; server_holds = true }
    fi
}

active proctype system() {
end:
    do
    :: steps(0)
    :: steps(1)
#if N > 2
    :: steps(2)
#endif
#if N > 3
    :: steps(3)
#endif
    od
}
