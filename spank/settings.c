#include "settings.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <slurm/spank.h>

int policy_parse(const char *name, enum policy *policy)
{
    if (!strcmp(name, "require"))
        *policy = POLICY_REQUIRE;
    else if (!strcmp(name, "warn"))
        *policy = POLICY_WARN;
    else if (!strcmp(name, "allow"))
        *policy = POLICY_ALLOW;
    else
        return -1;
    return 0;
}

static bool number(const char *text, unsigned long limit, unsigned long *value)
{
    char *end;

    if (*text < '0' || *text > '9') /* strtoul would take a sign and blanks */
        return false;
    errno = 0;
    *value = strtoul(text, &end, 10);
    return !errno && !*end && *value <= limit;
}

static bool argument(struct settings *settings, const char *name, size_t length, const char *value)
{
    unsigned long n;

#define IS(word) (length == sizeof(word) - 1 && !memcmp(name, word, length))
    if (IS("socket") && *value == '/')
        settings->socket = value;
    else if (IS("uploader") && *value == '/')
        settings->uploader = value;
    else if (IS("timeout_ms") && number(value, 60000, &n) && n > 0)
        settings->timeout_ms = (int)n;
    else if (IS("minimum_uid") && number(value, UINT32_MAX - 1, &n))
        settings->minimum_uid = (uid_t)n;
    else
        return IS("policy") && !policy_parse(value, &settings->unanswered);
#undef IS
    return true;
}

int settings_read(struct settings *settings, int ac, char **av)
{
    int bad = 0;

    *settings = (struct settings){
        .socket = "/run/hipercow-slurm/agent/agent.sock",
        .timeout_ms = 5000,
        .minimum_uid = 1000,
        .unanswered = POLICY_WARN,
    };
    for (int i = 0; i < ac; i++) {
        const char *equals = strchr(av[i], '=');

        if (equals && argument(settings, av[i], (size_t)(equals - av[i]), equals + 1))
            continue;
        slurm_error("hipercow-slurm: plugstack.conf: argument not understood: %s", av[i]);
        bad++;
    }
    return bad;
}
