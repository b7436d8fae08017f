/* One JSON object a line on standard output for each thing that happens, and an end by SIGTERM. */
#ifndef SAY_H
#define SAY_H

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static void say_quoted(const char *text) {
    putchar_unlocked('"');
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') printf("\\%c", c);
        else if (c < ' ') printf("\\u%04x", c);
        else putchar_unlocked(c);
    }
    putchar_unlocked('"');
}

/* What happened, then names and texts in turn, then NULL; what has a NULL text is left out. */
static void say(const char *event, ...) {
    va_list rest;
    const char *name;
    flockfile(stdout);
    printf("{\"event\":");
    say_quoted(event);
    va_start(rest, event);
    while ((name = va_arg(rest, const char *)) != NULL) {
        const char *text = va_arg(rest, const char *);
        if (!text) continue;
        putchar_unlocked(',');
        say_quoted(name);
        putchar_unlocked(':');
        say_quoted(text);
    }
    va_end(rest);
    printf("}\n");
    fflush(stdout);
    funlockfile(stdout);
}

static void say_stopped(int signal) {
    static const char line[] = "{\"event\":\"stopped\"}\n";
    (void)signal;
    _exit(write(STDOUT_FILENO, line, sizeof line - 1) < 0);
}

static void stop_on_signal(void) { signal(SIGTERM, say_stopped); }

#endif
