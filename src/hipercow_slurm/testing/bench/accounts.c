/* NSS module "hcsbench": accounts bench000000 to bench999999 with uids from FIRST_UID, in constant time.
 *
 * A generated /etc/passwd of 100 000 lines would be scanned at each lookup, and that scan is not what is measured.
 */
#include <errno.h>
#include <nss.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

enum { FIRST_UID = 200000, DIGITS = 6 };

enum nss_status _nss_hcsbench_getpwnam_r(const char *name, struct passwd *found, char *buffer, size_t size, int *error) {
    static const char home[] = "/", shell[] = "/bin/false";
    size_t length = strlen(name);
    if (length != 5 + DIGITS || strncmp(name, "bench", 5) || strspn(name + 5, "0123456789") != DIGITS)
        return NSS_STATUS_NOTFOUND;
    if (size < length + 1 + sizeof home + sizeof shell) {
        *error = ERANGE;
        return NSS_STATUS_TRYAGAIN;
    }
    found->pw_name = memcpy(buffer, name, length + 1);
    found->pw_dir = memcpy(buffer + length + 1, home, sizeof home);
    found->pw_shell = memcpy(buffer + length + 1 + sizeof home, shell, sizeof shell);
    found->pw_passwd = found->pw_gecos = found->pw_name + length;
    found->pw_uid = found->pw_gid = FIRST_UID + (uid_t)atoi(name + 5);
    return NSS_STATUS_SUCCESS;
}
