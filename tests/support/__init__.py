"""What the tests share: real servers on free ports, and modules run the way Ansible runs them."""
