/* MESI on a bus, two caches, one line, two values, written by hand beside mesi.rules, to hold its states and attacks
 * against Spin.
 * One process takes one step at a time; each step is one d_step, so that Spin stores exactly the states between steps.
 * With -DNO_INVALIDATION, -DWRITES_SHARED, -DDROPS_MODIFIED, -DNO_WRITE_BACK or -DLOOKS_NOWHERE it has the fault of that
 * name, with -DSINGLE_WRITER or -DREADS_LATEST it is asked only the claim of that name. */

#define INVALID   0
#define SHARED    1
#define EXCLUSIVE 2
#define MODIFIED  3

byte mode[2] = INVALID;
bit value[2];
bit memory;
bit latest;

#define OTHER(c) (1 - c)
#define MAY_WRITE(c) (mode[c] == EXCLUSIVE || mode[c] == MODIFIED)

#ifdef NO_INVALIDATION
#define INVALIDATED(d) mode[d]
#else
#define INVALIDATED(d) INVALID
#endif
#ifdef WRITES_SHARED
#define WRITES(c) (mode[c] != INVALID)
#else
#define WRITES(c) MAY_WRITE(c)
#endif
#ifdef DROPS_MODIFIED
#define MAY_DROP(c) (mode[c] != INVALID)
#else
#define MAY_DROP(c) (mode[c] == SHARED || mode[c] == EXCLUSIVE)
#endif
#ifdef NO_WRITE_BACK
#define WRITTEN_BACK(d) memory
#else
#define WRITTEN_BACK(d) (mode[d] == MODIFIED -> value[d] : memory)
#endif
#ifdef LOOKS_NOWHERE
#define NOBODY_HAS_IT true
#else
#define NOBODY_HAS_IT (mode[0] == INVALID && mode[1] == INVALID)
#endif

#define ALONE (!(MAY_WRITE(0) && mode[1] != INVALID) && !(MAY_WRITE(1) && mode[0] != INVALID))
#define FRESH ((mode[0] == INVALID || value[0] == latest) && (mode[1] == INVALID || value[1] == latest))
#if defined(SINGLE_WRITER)
#define CLAIM assert(ALONE)
#elif defined(READS_LATEST)
#define CLAIM assert(FRESH)
#else
#define CLAIM assert(ALONE && FRESH)
#endif

inline steps(c) {
    if
    :: d_step { mode[c] == INVALID && mode[OTHER(c)] != INVALID ->
           memory = WRITTEN_BACK(OTHER(c)); value[c] = value[OTHER(c)]; mode[OTHER(c)] = SHARED; mode[c] = SHARED; CLAIM }
    :: d_step { NOBODY_HAS_IT -> mode[c] = EXCLUSIVE; value[c] = memory; CLAIM }
    :: d_step { mode[c] == INVALID && !MAY_WRITE(OTHER(c)) ->
           mode[OTHER(c)] = INVALID; mode[c] = EXCLUSIVE; value[c] = memory; CLAIM }
    :: d_step { MAY_WRITE(OTHER(c)) -> value[c] = value[OTHER(c)]; mode[OTHER(c)] = INVALID; mode[c] = MODIFIED; CLAIM }
    :: d_step { mode[c] == SHARED -> mode[OTHER(c)] = INVALIDATED(OTHER(c)); mode[c] = EXCLUSIVE; CLAIM }
    :: d_step { WRITES(c) -> mode[c] = MODIFIED; value[c] = 0; latest = 0; CLAIM }
    :: d_step { WRITES(c) -> mode[c] = MODIFIED; value[c] = 1; latest = 1; CLAIM }
    :: d_step { MAY_DROP(c) -> mode[c] = INVALID; CLAIM }
    :: d_step { mode[c] == MODIFIED -> memory = value[c]; mode[c] = INVALID; CLAIM }
    fi
}

active proctype system() {
end:
    do
    :: steps(0)
    :: steps(1)
    od
}
