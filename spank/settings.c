#include "settings.h"

#include <errno.h>
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

int mode_parse(const char *name, enum mode *mode)
{
    if (!name || !*name || !strcmp(name, "yes"))
        *mode = MODE_ON;
    else if (!strcmp(name, "no"))
        *mode = MODE_OFF;
    else if (!strcmp(name, "done"))
        *mode = MODE_DONE;
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

/* The arguments of the AUKS plugin, as its sites have them in their plugstack.conf. Some have nothing left to do:
 * the node's own key is the agent's business (hostcredcache), and a job's ccache is a file that nobody switches to. */
static bool auks_argument(struct settings *settings, const char *name, const char *value)
{
#define IS(word) (!strcmp(name, word))
    if (!value) {
        if (IS("enforced"))
            settings->submit = POLICY_REQUIRE;
        return IS("enforced") || IS("force_file_ccache") || IS("no_cc_switch");
    }
    if (IS("conf") && *value == '/')
        settings->conf = value;
    else if (IS("default") && (!strcmp(value, "enabled") || !strcmp(value, "disabled")))
        settings->by_default = *value == 'e' ? MODE_ON : MODE_OFF;
    else if (IS("spankstackcred") && (!strcmp(value, "yes") || !strcmp(value, "no")))
        settings->stack = *value == 'y';
    else if (IS("sync") && (!strcmp(value, "yes") || !strcmp(value, "all") || !strcmp(value, "no")))
        settings->sync = *value == 'n' ? SYNC_NO : *value == 'y' ? SYNC_STEP : SYNC_TASK;
    else
        return IS("hostcredcache") && *value;
    return true;
}

static bool own_argument(struct settings *settings, const char *name, const char *value)
{
    unsigned long n;

    if (IS("socket") && *value == '/')
        settings->socket = value;
    else if (IS("uploader") && *value == '/')
        settings->uploader = value;
    else if (IS("timeout_ms") && number(value, 60000, &n) && n > 0)
        settings->timeout_ms = (int)n;
    else if (IS("fresh_s") && number(value, 3600, &n))
        settings->fresh_s = (int)n;
    else if (IS("minimum_uid") && number(value, UINT32_MAX - 1, &n))
        settings->minimum_uid = (uid_t)n;
    else if (IS("policy"))
        return !policy_parse(value, &settings->unanswered);
    else
        return IS("submit") && !policy_parse(value, &settings->submit);
    return true;
#undef IS
}

/* One word of the line; its name is copied, its value is borrowed. */
static bool argument(struct settings *settings, const char *text)
{
    char name[32];
    size_t length = strcspn(text, "=");
    const char *value = text[length] ? text + length + 1 : NULL;

    if (length >= sizeof name)
        return false;
    memcpy(name, text, length);
    name[length] = '\0';
    return auks_argument(settings, name, value) || (value && own_argument(settings, name, value));
}

int settings_read(struct settings *settings, int ac, char **av)
{
    int bad = 0;

    *settings = (struct settings){
        .socket = "/run/hipercow-slurm/agent/agent.sock",
        .timeout_ms = 5000,
        .fresh_s = 60,
        .minimum_uid = 1000,
        .unanswered = POLICY_WARN,
        .submit = POLICY_WARN,
        .by_default = MODE_ON,
        .sync = SYNC_NO,
    };
    for (int i = 0; i < ac; i++) {
        if (argument(settings, av[i]))
            continue;
        slurm_error("hipercow-slurm: plugstack.conf: argument not understood: %s", av[i]);
        bad++;
    }
    return bad;
}
