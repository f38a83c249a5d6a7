// A few threads that share numbered tasks. The caller works too; the others spin for about 50 microseconds after their
// last task and then sleep, so that other processes get the cores.
#pragma once
#include <cstdint>
#include <mutex>

namespace qw {

// Held by every function of the C interface while it runs: operations take turns, so that each has all the threads
// and the scratch buffers for itself.
std::unique_lock<std::mutex> begin_operation();

// Calls function(context, task) once for every task in 0 .. num_tasks - 1, on all threads, and waits for the last.
// Any thread may take a task, so a result must not depend on which one does.
void run_tasks(int64_t num_tasks, void (*function)(void* context, int64_t task), void* context);

// The same for a lambda: parallel_for(n, [&](int64_t task) { ... });
template <class Body>
void parallel_for(int64_t num_tasks, const Body& body) {
    run_tasks(
        num_tasks, [](void* context, int64_t task) { (*static_cast<const Body*>(context))(task); },
        const_cast<Body*>(&body));
}

int num_threads();
void set_num_threads(int count);  // 1 .. MAX_THREADS; the caller of an operation counts as one
constexpr int MAX_THREADS = 256;

// Memory for the duration of an operation, 64-byte aligned; kept for the next one. One buffer for each purpose.
enum class Scratch { activations, sums, parts, hidden, attention, norm, qkv, gate, candidates, low_rank, product, COUNT };
void* scratch(Scratch purpose, int64_t bytes);
void* thread_scratch(int64_t bytes);  // one for each thread
int64_t scratch_held();               // bytes of all buffers but the threads' own

}  // namespace qw
