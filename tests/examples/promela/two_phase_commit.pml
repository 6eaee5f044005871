/* Two-phase commit, written by hand beside two_phase_commit.rules, to hold its states and attacks against Spin.
 * One process takes one step at a time; each step is one d_step, so that Spin stores exactly the states between steps.
 *   spin -DN=3 -a two_phase_commit.pml && gcc -O2 -DBFS -DNOREDUCE -o pan pan.c && ./pan
 * N is 2, 3, 4 or 7. With -DABORT_AFTER_PREPARE, -DIMPATIENT or -DFORGED it has the
 * fault of that name, and Spin shows a shortest attack. */

#ifndef N
#define N 3
#endif

#define WORKING   0
#define PREPARED  1
#define COMMITTED 2
#define ABORTED   3
#define UNDECIDED 0
#define COMMIT    1
#define ABORT     2

byte rm[N];
bool said[N];
bool heard[N];
byte verdict = UNDECIDED;

#ifdef ABORT_AFTER_PREPARE
#define MAY_GIVE_UP(i) (rm[i] == WORKING || rm[i] == PREPARED)
#else
#define MAY_GIVE_UP(i) (rm[i] == WORKING)
#endif
#ifdef FORGED
#define MAY_HEAR(i) true
#else
#define MAY_HEAR(i) said[i]
#endif
#if N == 2
#define HAS(what) (rm[0] == what || rm[1] == what)
#define HEARD (heard[0] && heard[1])
#elif N == 3
#define HAS(what) (rm[0] == what || rm[1] == what || rm[2] == what)
#define HEARD (heard[0] && heard[1] && heard[2])
#elif N == 4
#define HAS(what) (rm[0] == what || rm[1] == what || rm[2] == what || rm[3] == what)
#define HEARD (heard[0] && heard[1] && heard[2] && heard[3])
#else
#define HAS(what) (rm[0] == what || rm[1] == what || rm[2] == what || rm[3] == what || rm[4] == what || rm[5] == what || \
                   rm[6] == what)
#define HEARD (heard[0] && heard[1] && heard[2] && heard[3] && heard[4] && heard[5] && heard[6])
#endif
#ifdef IMPATIENT
#define ALL_HEARD true
#else
#define ALL_HEARD HEARD
#endif

/* Asked where a manager commits or aborts; only there can it become false. */
#define ALL_OR_NOTHING assert(!(HAS(COMMITTED) && HAS(ABORTED)))

inline steps(i) {
    if
    :: d_step { rm[i] == WORKING -> rm[i] = PREPARED; said[i] = true }
    :: d_step { MAY_GIVE_UP(i) -> rm[i] = ABORTED; ALL_OR_NOTHING }
    :: d_step { verdict == UNDECIDED && MAY_HEAR(i) -> heard[i] = true }
    :: d_step { verdict == COMMIT -> rm[i] = COMMITTED; ALL_OR_NOTHING }
    :: d_step { verdict == ABORT -> rm[i] = ABORTED; ALL_OR_NOTHING }
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
#if N > 4
    :: steps(4)
    :: steps(5)
    :: steps(6)
#endif
    :: d_step { verdict == UNDECIDED && ALL_HEARD -> verdict = COMMIT }
    :: d_step { verdict == UNDECIDED -> verdict = ABORT }
    od
}
