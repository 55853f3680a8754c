"""Definitions of guests as they are in the field, shortened to what matters."""

from __future__ import annotations


def domain(devices: str = "", *, more: str = "", os: str = "", attributes: str = "type='kvm' id='3'") -> str:
    """A definition with these devices and these other elements."""
    return f"""
<domain {attributes}>
  <name>web1</name>
  <uuid>11111111-1111-4111-8111-111111111111</uuid>
  <memory unit='MiB'>512</memory>
  <vcpu placement='static'>2</vcpu>
  <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type>{os}</os>
  {more}
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{devices}</devices>
</domain>"""


FEDORA = domain(
    os="""<loader readonly='yes' secure='yes' type='pflash'>/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd</loader>
    <nvram template='/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd' format='qcow2'
      >/var/lib/libvirt/qemu/nvram/f.qcow2</nvram>
    <boot dev='hd'/>""",
    more="""<title>A workstation</title>
    <metadata><libosinfo:libosinfo xmlns:libosinfo='http://libosinfo.org/xmlns/libvirt/domain/1.0'>
      <libosinfo:os id='http://fedoraproject.org/fedora/40'/></libosinfo:libosinfo>
      <kvmigd:guest xmlns:kvmigd='https://kvmigd.org/guest/1'><kvmigd:policy>offline</kvmigd:policy></kvmigd:guest></metadata>
    <maxMemory slots='16' unit='GiB'>8</maxMemory><currentMemory unit='KiB'>262144</currentMemory>
    <iothreads>2</iothreads>
    <cputune><vcpupin vcpu='0' cpuset='2-3'/><emulatorpin cpuset='0'/><iothreadpin iothread='1' cpuset='1'/></cputune>
    <numatune><memory mode='strict' nodeset='0'/></numatune>
    <memoryBacking><hugepages><page size='1' unit='GiB' nodeset='0'/></hugepages><locked/>
      <source type='memfd'/><access mode='shared'/></memoryBacking>
    <features><acpi/><apic/><smm state='on'/><vmport state='off'/>
      <hyperv mode='custom'><relaxed state='on'/><vapic state='off'/></hyperv></features>
    <cpu mode='host-passthrough' check='none' migratable='on'><topology sockets='1' dies='1' cores='2' threads='1'/>
      <feature policy='require' name='invtsc'/></cpu>
    <clock offset='utc'><timer name='tsc' frequency='2445406000'/><timer name='hpet' present='no'/></clock>
    <seclabel type='dynamic' model='selinux' relabel='yes'>
      <label>system_u:system_r:svirt_t:s0:c1,c2</label></seclabel>""",
    devices="""<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none' io='native'/>
      <source file='/srv/vm/f.qcow2' index='2'/><backingStore type='file' index='3'><format type='qcow2'/>
        <source file='/srv/vm/middle.qcow2'/><backingStore type='block'><format type='raw'/><source dev='/dev/vg/base'/>
        <backingStore/></backingStore></backingStore>
      <mirror type='file' job='copy'><format type='raw'/><source file='/srv/vm/copy.img'/></mirror>
      <target dev='vda' bus='virtio'/><serial>S1</serial></disk>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0' persistent_state='yes'>
      <encryption secret='22222222-1111-4111-8111-111111111111'/></backend></tpm>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
    <channel type='unix'><source mode='bind' path='/run/libvirt/agent.sock'/>
      <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/><alias name='channel0'/></channel>
    <graphics type='spice' port='5900' autoport='yes' listen='127.0.0.1'><listen type='address' address='127.0.0.1'/>
      <gl enable='yes' rendernode='/dev/dri/renderD128'/></graphics>
    <vsock model='virtio'><cid auto='yes' address='3'/></vsock>
    <watchdog model='itco' action='reset'/>""",
)
CEPH = domain(
    """<disk type='network' device='disk'><driver name='qemu' type='raw' cache='writeback'/>
      <auth username='libvirt'><secret type='ceph' uuid='33333333-1111-4111-8111-111111111111'/></auth>
      <source protocol='rbd' name='vms/web1' index='1'><host name='mon1' port='6789'/>
        <host name='2001:db8::2' port='6789'/>
        <snapshot name='s1'/><config file='/etc/ceph/ceph.conf'/>
        <encryption format='luks2'><secret type='passphrase' usage='web1'/></encryption></source>
      <target dev='vda' bus='virtio'/></disk>"""
)
ISCSI = domain(
    """<disk type='block' device='lun'><driver name='qemu' type='raw' cache='none'/>
      <source dev='/dev/disk/by-path/ip-10.0.0.1:3260-iscsi-iqn.2024-01.org.example:t1-lun-0'>
        <reservations managed='yes'/></source>
        <target dev='sda' bus='scsi'/><shareable/><wwn>5000c50015ea71ac</wwn></disk>
    <disk type='network' device='disk'><source protocol='iscsi' name='iqn.2024-01.org.example:t1/1'>
      <host name='10.0.0.1' port='3260'/><auth username='u'><secret type='iscsi' usage='libvirtiscsi'/></auth>
      <initiator><iqn name='iqn.2024-01.org.example:me'/></initiator></source><target dev='sdb' bus='scsi'/></disk>
    <disk type='volume' device='disk'><source pool='iscsi' volume='unit:0:0:1'/><target dev='sdc' bus='scsi'/></disk>
    <disk type='nvme' device='disk'><source type='pci' managed='yes' namespace='2'>
      <address domain='0x0000' bus='0x01' slot='0x00' function='0x0'/></source><target dev='vdd'/></disk>
    <disk type='vhostuser' device='disk'><source type='unix' path='/run/spdk.sock'/><target dev='vde'/></disk>"""
)
DEVICES = domain(
    """<interface type='hostdev' managed='yes'><mac address='52:54:00:00:00:01'/>
      <source><address type='pci' domain='0x0000' bus='0x03' slot='0x10' function='0x1'/></source>
      <vlan><tag id='42'/></vlan>
      <teaming type='transient' persistent='ua-backup'/></interface>
    <interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='ovs0'/>
      <virtualport type='openvswitch'><parameters interfaceid='i-1' profileid='web'/></virtualport>
      <vlan trunk='yes'><tag id='1'/><tag id='2'/></vlan><filterref filter='clean-traffic'/><link state='down'/>
      <target dev='vnet3'/><teaming type='persistent'/><alias name='ua-backup'/></interface>
    <interface type='direct'><mac address='52:54:00:00:00:03'/><source dev='eth0' mode='passthrough'/></interface>
    <interface type='bridge'><mac address='52:54:00:00:00:04'/>
      <source network='lan' portgroup='office' bridge='virbr1'/></interface>
    <interface type='vhostuser'><mac address='52:54:00:00:00:05'/>
      <source type='unix' path='/run/dpdk.sock'/></interface>
    <hostdev mode='subsystem' type='pci' managed='yes'><driver name='vfio'/>
      <source><address domain='0x0000' bus='0x41' slot='0x00' function='0x0'/></source></hostdev>
    <hostdev mode='subsystem' type='usb'><source startupPolicy='optional'><vendor id='0x1234'/><product id='0xbeef'/>
      <address bus='1' device='4'/></source></hostdev>
    <hostdev mode='subsystem' type='mdev' model='vfio-pci'><source>
      <address uuid='c2177883-f1bb-47f0-914d-32a22e3a8804'/></source></hostdev>
    <hostdev mode='subsystem' type='scsi'><source>
      <adapter name='scsi_host0'/><address bus='0' target='0' unit='1'/></source></hostdev>
    <filesystem type='mount' accessmode='passthrough'><driver type='virtiofs'/><source dir='/srv/share'/>
      <target dir='share'/></filesystem>
    <filesystem type='mount'><source dir='/srv/nine'/><target dir='nine'/><readonly/></filesystem>
    <shmem name='ring' role='master'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>
    <memory model='nvdimm'><source><path>/srv/nv.img</path></source>
      <target><size unit='MiB'>128</size></target></memory>
    <serial type='file'><source path='/srv/log/web1'/><target port='0'/></serial>
    <input type='evdev'><source dev='/dev/input/event1'/></input>
    <lease><lockspace>vm</lockspace><key>web1</key><target path='/srv/leases'/></lease>""",
    more="<launchSecurity type='sev'><policy>0x0003</policy></launchSecurity>",
)
ALL = (FEDORA, CEPH, ISCSI, DEVICES)
