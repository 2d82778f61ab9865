/* The inner loops of the search as machine code: timeline.py, moves.py and anneal.py, function by function.

   What the functions do is said there. The two forms draw the same random numbers, add in the same order and take the
   same steps, so that a plan is the same plan on a machine without a compiler that had the time
   (tests/memory/search/test_compiled.py goes through both step by step). */

#include <math.h>
#include <stdint.h>

typedef int64_t num;

/* In the order of timeline.Timeline, then the number of slots and of copies of one operator. */
typedef struct {
    const double *cost;
    const uint8_t *once;
    const num *workspace, *outputs_at, *outputs, *reads_at, *reads, *readers_at, *readers, *earlier_at, *earlier;
    const num *later_at, *later, *producer, *size;
    const uint8_t *keep;
    num *runs, *live, *slots, *count, *total;
    num length, copies;
} Line;

typedef struct {
    num kind, slot, added, removed;
    double extra;
} Change;

enum { EXCESS, BUDGET };
enum { NOTHING = -1, MOVE, OTHER };
#define EMPTY ((num)1 << 60)
#define MODULUS 2147483647
#define DEPTH 24
#define TRIES 8
#define MOST (DEPTH * 8) /* that wait to be looked at */
#define EACH(i, at, of) for (num i = (at)[of]; i < (at)[(of) + 1]; i++)

static num min(num a, num b) { return a < b ? a : b; }
static num max(num a, num b) { return a > b ? a : b; }

/* -- timeline.py ------------------------------------------------------------------------------------------------ */

static num run_before(const Line *line, num operator, num slot)
{
    const num *slots = line->slots + operator * line->copies;
    for (num i = line->count[operator] - 1; i >= 0; i--)
        if (slots[i] < slot)
            return slots[i];
    return -1;
}

static num run_after(const Line *line, num operator, num slot)
{
    const num *slots = line->slots + operator * line->copies;
    for (num i = 0; i < line->count[operator]; i++)
        if (slots[i] > slot)
            return slots[i];
    return line->length;
}

static num last_reading(const Line *line, num value, num start, num stop)
{
    if (stop == line->length && line->keep[value])
        return stop - 1;
    num last = start;
    EACH(i, line->readers_at, value)
        last = max(last, run_before(line, line->readers[i], stop));
    return last;
}

static void add(Line *line, num start, num stop, num amount)
{
    num budget = line->total[BUDGET], excess = 0, *live = line->live;
    for (num slot = start; slot < stop; slot++) {
        num old = live[slot], new = old + amount;
        live[slot] = new;
        excess += max(new - budget, 0) - max(old - budget, 0);
    }
    line->total[EXCESS] += excess;
}

static void touch(Line *line, num operator, num slot, num sign)
{
    EACH(i, line->outputs_at, operator) {
        num value = line->outputs[i];
        num previous = run_before(line, operator, slot), following = run_after(line, operator, slot);
        num last = last_reading(line, value, slot, following);
        if (previous >= 0 && last > slot)
            add(line, last_reading(line, value, previous, slot) + 1, slot, -sign * line->size[value]);
        else
            add(line, slot, last + 1, sign * line->size[value]);
    }
    EACH(i, line->reads_at, operator) {
        num value = line->reads[i], source = line->producer[value];
        num copy = run_before(line, source, slot);
        num last = last_reading(line, value, copy, run_after(line, source, slot));
        if (last < slot)
            add(line, last + 1, slot + 1, sign * line->size[value]);
    }
}

void put(Line *line, num operator, num slot)
{
    num *slots = line->slots + operator * line->copies;
    add(line, slot, slot + 1, EMPTY + line->workspace[operator]);
    touch(line, operator, slot, 1);
    line->runs[slot] = operator;
    num i = line->count[operator];
    for (; i > 0 && slots[i - 1] > slot; i--)
        slots[i] = slots[i - 1];
    slots[i] = slot;
    line->count[operator]++;
}

void take(Line *line, num slot)
{
    num operator = line->runs[slot], *slots = line->slots + operator * line->copies, i = 0;
    line->runs[slot] = -1;
    line->count[operator]--;
    while (slots[i] != slot)
        i++;
    for (; i < line->count[operator]; i++)
        slots[i] = slots[i + 1];
    touch(line, operator, slot, -1);
    add(line, slot, slot + 1, -EMPTY - line->workspace[operator]);
}

num make_room(Line *line, num slot)
{
    num stop = slot;
    while (stop < line->length && line->runs[stop] >= 0)
        stop++;
    if (stop >= line->length - 1)
        return 0;
    for (num target = stop; target > slot; target--) {
        num operator = line->runs[target - 1], *slots = line->slots + operator * line->copies;
        for (num i = 0; i < line->count[operator]; i++)
            if (slots[i] == target - 1)
                slots[i] = target;
        line->runs[target] = operator;
        line->live[target] = line->live[target - 1];
    }
    if (stop > slot) {
        num operator = line->runs[slot + 1];
        line->live[slot] -= EMPTY + line->workspace[operator];
        EACH(i, line->outputs_at, operator)
            line->live[slot] -= line->size[line->outputs[i]];
        line->runs[slot] = -1;
    }
    return 1;
}

void fill(Line *line, const num *schedule, num length)
{
    for (num position = 0; position < length; position++)
        put(line, schedule[position], 2 * position + 1);
}

/* -- moves.py --------------------------------------------------------------------------------------------------- */

num draw(num *state, num below)
{
    *state = *state * 48271 % MODULUS;
    return *state * below / MODULUS;
}

static num random_run(const Line *line, num *state)
{
    for (int k = 0; k < 20; k++) {
        num slot = draw(state, line->length);
        if (line->runs[slot] >= 0)
            return slot;
    }
    return -1;
}

static int may_run_again(const Line *line, num operator, num slot)
{
    if (line->once[operator] || line->count[operator] >= line->copies || line->slots[operator * line->copies] >= slot)
        return 0;
    EACH(i, line->later_at, operator)
        if (line->slots[line->later[i] * line->copies] < slot)
            return 0;
    return 1;
}

static num first_reading(const Line *line, num operator)
{
    num first = line->length;
    EACH(i, line->outputs_at, operator)
        EACH(j, line->readers_at, line->outputs[i])
            first = min(first, line->slots[line->readers[j] * line->copies]);
    return first;
}

static num recompute(Line *line, num *state, num value, num slot, num chance, num depth)
{
    num todo[MOST], size = 1, added = 0;
    todo[0] = value;
    while (size > 0 && added < depth) {
        num wanted = todo[--size], operator = line->producer[wanted];
        num source = run_before(line, operator, slot);
        if (added > 0 && (source < 0 || last_reading(line, wanted, source, slot + added) < slot))
            continue;
        if (!may_run_again(line, operator, slot) || !make_room(line, slot))
            continue;
        put(line, operator, slot);
        added++;
        EACH(i, line->reads_at, operator) {
            num read = line->reads[i], maker = line->producer[read];
            num copy = run_before(line, maker, slot), stop = run_after(line, maker, slot);
            int alive = last_reading(line, read, copy, slot) >= slot - 2
                        || last_reading(line, read, copy, stop) > slot + added;
            if (!alive && size < MOST && draw(state, 100) < chance)
                todo[size++] = read;
        }
    }
    return added;
}

static int superfluous(const Line *line, num slot)
{
    num operator = line->runs[slot];
    if (line->count[operator] < 2)
        return 0;
    num following = run_after(line, operator, slot);
    EACH(i, line->outputs_at, operator)
        if (last_reading(line, line->outputs[i], slot, following) > slot)
            return 0;
    return 1;
}

static num remove_run(Line *line, num slot, num *undo)
{
    num todo[MOST], size = 1, removed = 0;
    todo[0] = slot;
    while (size > 0 && removed < DEPTH) {
        slot = todo[--size];
        if (slot < 0) /* no run; in Python that is the last slot, which stays empty */
            continue;
        num operator = line->runs[slot];
        if (operator < 0 || (removed > 0 && !superfluous(line, slot)))
            continue;
        take(line, slot);
        undo[2 * removed] = operator;
        undo[2 * removed + 1] = slot;
        removed++;
        EACH(i, line->reads_at, operator) {
            num copy = run_before(line, line->producer[line->reads[i]], slot);
            if (size < MOST)
                todo[size++] = copy;
        }
    }
    return removed;
}

static int removable(const Line *line, num slot)
{
    num operator = line->runs[slot], *slots = line->slots + operator * line->copies;
    if (line->count[operator] < 2)
        return 0;
    return slots[0] != slot || first_reading(line, operator) > slots[1];
}

static void range_of(const Line *line, num slot, num *low, num *high)
{
    num operator = line->runs[slot], copies = line->copies;
    *low = -1;
    *high = line->length - 1;
    EACH(i, line->reads_at, operator)
        *low = max(*low, line->slots[line->producer[line->reads[i]] * copies]);
    EACH(i, line->earlier_at, operator) {
        num other = line->earlier[i];
        *low = max(*low, line->slots[other * copies + line->count[other] - 1]);
    }
    EACH(i, line->later_at, operator)
        *high = min(*high, line->slots[line->later[i] * copies]);
    if (line->slots[operator * copies] == slot)
        *high = min(*high, first_reading(line, operator));
}

static num destination(const Line *line, num *state, num slot)
{
    num low, high, target;
    range_of(line, slot, &low, &high);
    num kind = draw(state, 4);
    if (kind == 0) { /* anywhere */
        target = low + 1 + draw(state, max(high - low - 1, 1));
    } else if (kind == 1) { /* as late as its next reading allows */
        num operator = line->runs[slot];
        target = run_after(line, operator, slot);
        EACH(i, line->outputs_at, operator)
            EACH(j, line->readers_at, line->outputs[i])
                target = min(target, run_after(line, line->readers[j], slot));
        high = min(high, target);
        target = high - 1;
    } else {
        num reach = kind == 2 ? 4 : 32;
        target = slot - reach + draw(state, 2 * reach + 1);
    }
    num step = draw(state, 2) == 0 && kind != 1 ? 1 : -1;
    while (low < target && target < high && line->runs[target] >= 0)
        target += step;
    return low < target && target < high ? target : -1;
}

static num to_recompute(const Line *line, num *state, num *slot)
{
    num operator = line->runs[*slot];
    num first = line->reads_at[operator], count = line->reads_at[operator + 1] - first;
    if (count == 0 || draw(state, 8) == 0) {
        EACH(i, line->outputs_at, operator)
            if (line->keep[line->outputs[i]]) {
                *slot += 1 + draw(state, line->length - *slot);
                return line->outputs[i];
            }
        return -1;
    }
    num value = line->reads[first + draw(state, count)];
    if (last_reading(line, value, run_before(line, line->producer[value], *slot), *slot) >= *slot - 1)
        return -1;
    return value;
}

static num idle(const Line *line, num *state, num *slot)
{
    num crowded = draw(state, line->length);
    while (line->live[crowded] <= line->total[BUDGET])
        crowded = (crowded + 1) % line->length;
    for (int k = 0; k < 20; k++) {
        *slot = crowded + 1 + draw(state, max(line->length - crowded - 1, 1));
        num operator = *slot < line->length ? line->runs[*slot] : -1;
        num count = operator >= 0 ? line->reads_at[operator + 1] - line->reads_at[operator] : 0;
        if (count == 0)
            continue;
        num value = line->reads[line->reads_at[operator] + draw(state, count)];
        num source = run_before(line, line->producer[value], *slot);
        if (source < crowded && last_reading(line, value, source, *slot) < crowded)
            return value;
    }
    *slot = 0;
    return -1;
}

static num random_removable(const Line *line, num *state, num slot)
{
    for (int k = 0; k < 10; k++) {
        if (slot >= 0 && removable(line, slot))
            return slot;
        slot = random_run(line, state);
    }
    return -1;
}

static void put_back(Line *line, const num *undo, num start, num stop)
{
    for (num i = stop - 1; i >= start; i--)
        put(line, undo[2 * i], undo[2 * i + 1]);
}

static num remove_what_is_free(Line *line, num *state, num start, num stop, num *undo)
{
    num removed = 0;
    for (int k = 0; k < TRIES; k++) {
        num slot = random_removable(line, state, random_run(line, state));
        if (slot < 0 || (start <= slot && slot < stop) || removed > (TRIES - 1) * DEPTH)
            continue;
        num more = remove_run(line, slot, undo + 2 * removed);
        if (line->total[EXCESS] > 0)
            put_back(line, undo, removed, removed + more);
        else
            removed += more;
    }
    return removed;
}

static double cost_of(const Line *line, const num *undo, num removed)
{
    double cost = 0.0;
    for (num i = 0; i < removed; i++)
        cost += line->cost[undo[2 * i]];
    return cost;
}

void change(Line *line, num *state, num *undo, num reorder, double dearest, Change *done)
{
    *done = (Change){NOTHING, 0, 0, 0, 0.0};
    num slot = random_run(line, state);
    if (slot < 0)
        return;
    num operator = line->runs[slot], choice = draw(state, 10);
    int over = line->total[EXCESS] > 0;
    if (reorder || choice < 4) { /* move */
        num target = destination(line, state, slot);
        if (target < 0)
            return;
        take(line, slot);
        put(line, operator, target);
        undo[0] = operator;
        undo[1] = slot;
        *done = (Change){MOVE, target, 1, 1, 0.0};
        return;
    }
    if (choice < (over ? 6 : 9)) { /* remove */
        slot = random_removable(line, state, slot);
        if (slot < 0)
            return;
        num removed = remove_run(line, slot, undo);
        *done = (Change){OTHER, 0, 0, removed, -cost_of(line, undo, removed)};
        return;
    }
    num value = over && choice < 9 ? idle(line, state, &slot) : to_recompute(line, state, &slot);
    int exchange = !over && draw(state, 4) > 0;
    if (value < 0 || (!over && !exchange && line->cost[line->producer[value]] > dearest))
        return;
    num added = recompute(line, state, value, slot, 25 * draw(state, 5), DEPTH), removed = 0;
    double cost = 0.0;
    for (num i = 0; i < added; i++)
        cost += line->cost[line->runs[slot + i]];
    if (exchange && added > 0)
        removed = remove_what_is_free(line, state, slot, slot + added, undo);
    *done = (Change){OTHER, slot, added, removed, cost - cost_of(line, undo, removed)};
}

void step_back(Line *line, const num *undo, num kind, num slot, num added, num removed)
{
    if (kind == MOVE) {
        take(line, slot);
        put(line, undo[0], undo[1]);
        return;
    }
    put_back(line, undo, 0, removed);
    for (num i = 0; i < added; i++)
        take(line, slot + i);
}

/* -- anneal.py -------------------------------------------------------------------------------------------------- */

static double accept(Line *line, num *state, num *undo, num reorder, double price, double weight, double temperature)
{
    Change done;
    num before = line->total[EXCESS];
    double worst = -temperature * log((double)(draw(state, MODULUS) + 1) / MODULUS);
    change(line, state, undo, reorder, price > 0 ? worst / price : INFINITY, &done);
    double energy = price * done.extra + weight * (double)(line->total[EXCESS] - before);
    if (energy > worst) {
        step_back(line, undo, done.kind, done.slot, done.added, done.removed);
        return 0.0;
    }
    return done.extra;
}

/* weight_and_best: in, and out again. */
void anneal(Line *line, num *state, num steps, double hot, double cold, double cost, double *weight_and_best,
            num *best_runs)
{
    num undo[2 * TRIES * DEPTH];
    double cooling = pow(cold / hot, 1.0 / (double)steps), weight = weight_and_best[0], best = weight_and_best[1];
    num period = min(64, max(1, steps / 100));
    for (num step = 0; step < steps; step++) {
        hot *= cooling;
        cost += accept(line, state, undo, 0, 1.0, weight, hot);
        if (line->total[EXCESS] == 0 && cost < best) {
            best = cost;
            for (num i = 0; i < line->length; i++)
                best_runs[i] = line->runs[i];
        }
        if (step % period == 0)
            weight *= line->total[EXCESS] > 0 ? 1.02 : 0.985;
    }
    weight_and_best[0] = weight;
    weight_and_best[1] = best;
}

void fit(Line *line, num *state, num steps, double hot, double cold, double price, num reorder)
{
    num undo[2 * TRIES * DEPTH];
    double cooling = pow(cold / hot, 1.0 / (double)steps);
    for (num step = 0; step < steps && line->total[EXCESS] != 0; step++) {
        hot *= cooling;
        accept(line, state, undo, reorder, price, 1.0, hot);
    }
}
