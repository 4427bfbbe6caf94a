// `missile-arbiter [--detach FOLDER] DEVICE [IDLE_SECONDS]`: the arbiter of a device.
//
// With --detach it returns once an arbiter listens in FOLDER, which goes on in a session of its
// own.
#include <fcntl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>

#include "arbiter.h"

namespace {

constexpr double kIdleSeconds = 30.0;

// Standard error goes there: a file that is the starter's would keep its readers waiting.
void WriteTo(const std::string& path) {
  const int log = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (log < 0 || dup2(log, STDERR_FILENO) < 0) std::perror(path.c_str());
}

// Says by exit code whether an arbiter listens; 1 if not.
int Run(const std::string& folder, const std::string& device, double idle_seconds, int tell) {
  try {
    missile::arbiter::Arbiter arbiter(folder, device,
                                      static_cast<std::int64_t>(idle_seconds * 1e9));
    if (tell >= 0) {
      if (write(tell, "!", 1) != 1) return 1;
      close(tell);
    }
    if (arbiter.other_runs()) {
      if (tell < 0) std::fprintf(stderr, "another arbiter serves device '%s'\n", device.c_str());
      return 0;
    }
    if (tell >= 0) WriteTo(folder + "/" + device + ".log");
    // Turns are cut finer than the default slack of 50 us.
    prctl(PR_SET_TIMERSLACK, 1000UL, 0UL, 0UL, 0UL);
    arbiter.Run();
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "missile arbiter: %s\n", error.what());
    return 1;
  }
}

int Detach(const std::string& folder, const std::string& device, double idle_seconds) {
  // Files that the starter left open.
  close_range(3, ~0U, 0);
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) {
    std::perror("pipe2");
    return 1;
  }
  const pid_t child = fork();
  if (child < 0) {
    std::perror("fork");
    return 1;
  }
  if (child == 0) {
    close(ends[0]);
    setsid();
    if (chdir("/") != 0) return 1;
    const int nothing = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (nothing < 0) return 1;
    dup2(nothing, STDIN_FILENO);
    dup2(nothing, STDOUT_FILENO);
    return Run(folder, device, idle_seconds, ends[1]);
  }
  close(ends[1]);
  char said = 0;
  ssize_t got = 0;
  do {
    got = read(ends[0], &said, 1);
  } while (got < 0 && errno == EINTR);
  return got == 1 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const bool detach = argc > 2 && std::strcmp(argv[1], "--detach") == 0;
  const int first = detach ? 3 : 1;
  if (argc <= first || argc > first + 2 || argv[first][0] == '-') {
    std::fprintf(stderr, "usage: missile-arbiter [--detach FOLDER] DEVICE [IDLE_SECONDS]\n");
    return 2;
  }
  const double idle_seconds =
      argc > first + 1 ? std::strtod(argv[first + 1], nullptr) : kIdleSeconds;
  if (!(idle_seconds > 0.0 && idle_seconds <= 1e6)) {
    std::fprintf(stderr, "IDLE_SECONDS must be above 0 and at most 1e6, got %s\n", argv[first + 1]);
    return 2;
  }
  if (detach) return Detach(argv[2], argv[first], idle_seconds);
  try {
    return Run(missile::arbiter::Folder(), argv[first], idle_seconds, -1);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "missile arbiter: %s\n", error.what());
    return 1;
  }
}
