/* Leader election in a ring, written by hand beside ring_leader.rules, to hold its states and attacks against Spin.
 * One process takes one step at a time; each step is one d_step, so that Spin stores exactly the states between steps.
 * N is 2 or 3: node k sends to node k + 1, and is called by the number N - 1 - k. With -DPASSES_ALL, -DWINS_BY_ANY or
 * -DJUMPS it has the fault of that name, with -DONE_LEADER or -DLEADER_IS_HIGHEST it is asked only that claim. */

#ifndef N
#define N 3
#endif

bool coming[N * N];
bool leader[N];

#define NUMBER(n) (N - 1 - (n))
#define COMING(x, n) coming[(x) * N + (n)]
#define NEXT(n) (((n) + 1) % N)

#ifdef PASSES_ALL
#define PASSES(n, x) true
#else
#define PASSES(n, x) ((x) > NUMBER(n))
#endif
#ifdef WINS_BY_ANY
#if N == 2
#define WINS(n) ((COMING(0, n) && NUMBER(n) <= 0) || COMING(1, n))
#else
#define WINS(n) ((COMING(0, n) && NUMBER(n) <= 0) || (COMING(1, n) && NUMBER(n) <= 1) || COMING(2, n))
#endif
#else
#define WINS(n) COMING(NUMBER(n), n)
#endif

#if N == 2
#define LEADERS (leader[0] + leader[1])
#else
#define LEADERS (leader[0] + leader[1] + leader[2])
#endif

/* Asked where a node wins; only there can it become false. */
#if defined(ONE_LEADER)
#define CLAIM(n) assert(LEADERS <= 1)
#elif defined(LEADER_IS_HIGHEST)
#define CLAIM(n) assert(NUMBER(n) == N - 1)
#else
#define CLAIM(n) assert(LEADERS <= 1 && NUMBER(n) == N - 1)
#endif

inline number_steps(n, x) {
    if
    :: d_step { COMING(x, n) && PASSES(n, x) -> COMING(x, n) = false; COMING(x, NEXT(n)) = true }
#if defined(JUMPS) && N > 2
    :: d_step { COMING(x, n) && PASSES(n, x) -> COMING(x, n) = false; COMING(x, NEXT(NEXT(n))) = true }
#endif
    :: d_step { COMING(x, n) && (x) < NUMBER(n) -> COMING(x, n) = false }
    fi
}

inline steps(n) {
    if
    :: d_step { true -> COMING(NUMBER(n), NEXT(n)) = true }
    :: d_step { WINS(n) -> COMING(NUMBER(n), n) = false; leader[n] = true; CLAIM(n) }
    :: number_steps(n, 0)
    :: number_steps(n, 1)
#if N > 2
    :: number_steps(n, 2)
#endif
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
    od
}
