package command

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// credentialOf returns what a process of the user of that name runs with. It needs
// the right to give that to a process, which is root's.
func credentialOf(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("USER: %w; create the user, or name another", err)
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("USER is %s, but only root may run programs as another user; run the daemon as root, or leave USER unset", name)
	}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("USER: groups of %s: %w; mend the system's user database", name, err)
	}
	c := new(syscall.Credential)
	ids := make([]uint32, 0, len(groups)+2)
	for _, id := range append([]string{u.Uid, u.Gid}, groups...) {
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("USER: id of %s: %w; mend the system's user database", name, err)
		}
		ids = append(ids, uint32(n))
	}
	c.Uid, c.Gid, c.Groups = ids[0], ids[1], ids[2:]
	return c, nil
}
