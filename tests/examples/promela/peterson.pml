/* Peterson's mutual exclusion with store buffers, written by hand beside peterson.rules, to hold its states and attacks
 * against Spin. One process takes one step at a time; each step is one d_step, so that Spin stores exactly the states between steps.
 * With -DNO_FENCE, -DTAKES_TURN, -DNO_TURN or -DSTORES_REORDERED it has the fault of that name, and Spin shows a shortest
 * attack. Sides are 0 and 1. */

#define OUTSIDE 0
#define FLAGGED 1
#define WAITING 2
#define INSIDE  3

byte place[2] = OUTSIDE;
bool flag[2];
bool flag_buffered[2];
bool turn_buffered[2];
bit turn = 0;

#define OTHER(s) (1 - s)
#define DRAINED(s) (!turn_buffered[s] && !flag_buffered[s])
#ifdef NO_FENCE
#define FENCE(s) true
#else
#define FENCE(s) DRAINED(s)
#endif
#ifdef TAKES_TURN
#define GIVEN_TO(s) s
#else
#define GIVEN_TO(s) OTHER(s)
#endif
#ifdef NO_TURN
#define MY_TURN(s) true
#else
#define MY_TURN(s) (turn == s)
#endif
#ifdef STORES_REORDERED
#define FLAG_FIRST(s) true
#else
#define FLAG_FIRST(s) (!flag_buffered[s])
#endif

/* Asked where a side enters; only there can it become false. */
#define MUTUAL_EXCLUSION assert(!(place[0] == INSIDE && place[1] == INSIDE))

inline steps(s) {
    if
    :: d_step { place[s] == OUTSIDE -> flag_buffered[s] = true; place[s] = FLAGGED }
    :: d_step { place[s] == FLAGGED -> turn_buffered[s] = true; place[s] = WAITING }
    :: d_step { flag_buffered[s] -> flag[s] = true; flag_buffered[s] = false }
    :: d_step { turn_buffered[s] && FLAG_FIRST(s) -> turn = GIVEN_TO(s); turn_buffered[s] = false }
    :: d_step { place[s] == WAITING && FENCE(s) && !flag[OTHER(s)] -> place[s] = INSIDE; MUTUAL_EXCLUSION }
    :: d_step { place[s] == WAITING && DRAINED(s) && MY_TURN(s) -> place[s] = INSIDE; MUTUAL_EXCLUSION }
    :: d_step { place[s] == INSIDE -> flag[s] = false; place[s] = OUTSIDE }
    fi
}

active proctype system() {
end:
    do
    :: steps(0)
    :: steps(1)
    od
}
