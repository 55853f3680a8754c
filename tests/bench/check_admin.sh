#!/bin/sh
# What an admin would ask before he migrates a guest, over ssh and virsh. Prints milliseconds, then what does not fit.
# Arguments: guest, other host, its address, address of this host, the guest's disk, its bridge, its machine type
guest=$1 there=$2 address=$3 here=$4 disk=$5 bridge=$6 machine=$7
odd=
remote() { ssh -i /root/.ssh/id -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "root@$address" "$@"; }
same() { [ "$2" = "$3" ] || odd="$odd $1"; }
begin=$(date +%s%N)

# the guest, and libvirt there
same state "$(virsh domstate "$guest")" running
virsh -c "qemu+tls://$there/system" list --name > /dev/null || odd="$odd libvirt"
remote virsh dominfo "$guest" > /dev/null 2>&1 && odd="$odd name"
# software
same versions "$(virsh version | grep -v Running)" "$(remote virsh version | grep -v Running)"
same release "$(cat /etc/os-release; uname -r)" "$(remote 'cat /etc/os-release; uname -r')"
# CPU and machine type
virsh dumpxml --migratable "$guest" | sed -n '/<cpu/,/<\/cpu>/p' > /tmp/cpu.xml
remote virsh hypervisor-cpu-compare --virttype qemu --machine "$machine" /dev/stdin < /tmp/cpu.xml > /dev/null || odd="$odd cpu"
remote virsh domcapabilities --virttype qemu --machine "$machine" > /dev/null || odd="$odd machine"
# memory
[ "$(remote "awk '/MemAvailable/ { print \$2 }' /proc/meminfo")" -gt "$(virsh dominfo "$guest" | awk '/Max memory/ { print $3 }')" ] || odd="$odd memory"
# storage: the same file, and what is written here is read there, as QEMU's user
folder=${disk%/*} nonce=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
same disk "$(stat -c %s "$disk")" "$(remote stat -c %s "$disk")"
setpriv --reuid=libvirt-qemu --regid=kvm --clear-groups sh -c "echo $nonce > $folder/.admin-$nonce" 2> /dev/null || echo "$nonce" > "$folder/.admin-$nonce"
same storage "$nonce" "$(remote setpriv --reuid=libvirt-qemu --regid=kvm --clear-groups cat "$folder/.admin-$nonce")"
rm -f "$folder/.admin-$nonce"
# bridges, their uplinks and MTU
same bridge "$(cat "/sys/class/net/$bridge/mtu")" "$(remote cat "/sys/class/net/$bridge/mtu")"
remote "ip -br link show master $bridge" | grep -q UP || odd="$odd uplink"
# the ports, both ways
listen='import socket; s = socket.create_server(("", 49190)); s.settimeout(3); c = s.accept()[0]; c.sendall(b"ok"); c.close()'
remote python3 -c "'$listen'" > /dev/null 2>&1 &
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
	reply=$(bash -c "read -r -t 1 x < /dev/tcp/$address/49190; echo \$x" 2> /dev/null) && [ -n "$reply" ] && break
	sleep 0.05
done
same port "$reply" ok
python3 -c "$listen" > /dev/null 2>&1 &
same back "$(remote "bash -c 'for _ in 1 2 3 4 5 6 7 8 9 10; do read -r -t 1 x < /dev/tcp/$here/49190 && break; sleep 0.05; done; echo \$x' 2> /dev/null")" ok
wait
# certificates
openssl verify -CAfile /etc/pki/CA/cacert.pem /etc/pki/qemu/server-cert.pem > /dev/null 2>&1 || odd="$odd certificate"
remote openssl verify -CAfile /etc/pki/CA/cacert.pem /etc/pki/qemu/server-cert.pem > /dev/null 2>&1 || odd="$odd certificate-there"

echo $((($(date +%s%N) - begin) / 1000))
echo "odd:$odd"
