package proc

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
)

const (
	roleEnv   = "KONDUIT_ROLE"
	configEnv = "KONDUIT_ROLE_CONFIG"
)

// Role is the part that this copy of the program was started to play, or "".
func Role() string { return os.Getenv(roleEnv) }

// RoleConfig reads what AsRole passed.
func RoleConfig(into any) error {
	if err := json.Unmarshal([]byte(os.Getenv(configEnv)), into); err != nil {
		return fmt.Errorf("reading the role's configuration: %w", err)
	}
	return nil
}

// AsRole makes a prepared run of this program play another part.
func AsRole(cmd *exec.Cmd, role string, config any) error {
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, roleEnv+"="+role)
	if config == nil {
		return nil
	}
	data, err := json.Marshal(config)
	if err != nil {
		return err
	}
	cmd.Env = append(cmd.Env, configEnv+"="+string(data))
	return nil
}
